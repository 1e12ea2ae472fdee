"""The pickle machine reads plain data as ``pickle`` does, and gets nothing but data from any other stream."""

import collections
import io
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert_weights import inert_pickle
from convert_weights.safe_globals import Global, Placeholder
from tests import hostile_files as make
from tramp_jax.errors import UserError

SETTINGS = settings(max_examples=100, deadline=None)


@SETTINGS
@given(
    st.lists(st.sampled_from([bytes([code]) for code in range(256)] + [b"K\x01", b"c\x6d\nn\n", b"h\x00"]), max_size=40)
)
def test_any_instructions_end_in_data_or_an_error_for_the_user(parts):
    try:
        root, _ = inert_pickle.run(io.BytesIO(make.program(b"".join(parts))))
    except UserError:
        return
    assert type(root).__module__ in ("builtins", "convert_weights.safe_globals")


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
plain_data = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(-99, 99), inner, max_size=4)
        | st.dictionaries(st.text(), inner, max_size=4).map(collections.OrderedDict)
    ),
    max_leaves=20,
)


@SETTINGS
@given(value=plain_data, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_data_reads_as_pickle_reads_it(value, protocol):
    root, _ = inert_pickle.run(io.BytesIO(pickle.dumps(value, protocol)))
    assert root == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_containers_and_scalars(protocol):
    value = {
        "set": {3},
        "frozen": frozenset({4}),
        "bytes": b"",
        "array": bytearray(b"ab"),
        "complex": 1 + 2j,
        "default": collections.defaultdict(list, {"a": [1]}),
        "counter": collections.Counter("aab"),
        "best": np.float64(0.91),
        "big_endian": np.array([5], ">i4")[0],
        "wide": np.array(7, ">i8").astype(">i8")[()],
        "flag": np.bool_(True),
        (1, "a"): 1,
        (1, (2, 3)): 2,
    }
    root, _ = inert_pickle.run(io.BytesIO(pickle.dumps(value, protocol)))
    *pairs, (odd_key, odd_value) = root.items()
    assert dict(pairs) == {
        **{key: kept for key, kept in list(value.items())[:-1] if not isinstance(kept, set | frozenset)},
        "set": [3],
        "frozen": (4,),
    }
    assert isinstance(odd_key, Placeholder)
    assert odd_value == 2
    assert isinstance(root["best"], float)
    assert {key: type(root[key]) for key in ("array", "default", "counter")} == {
        "array": bytes,
        "default": dict,
        "counter": dict,
    }


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", [np.ones(2), np.str_("a"), np.array([None])[:1], np.datetime64(3, "s"), make.plain])
def test_what_is_not_in_the_table_is_a_placeholder(value, protocol):
    root, _ = inert_pickle.run(io.BytesIO(pickle.dumps(value, protocol)))
    assert isinstance(root, Placeholder | Global)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_placeholder_has_the_name_of_the_class(protocol):
    root, _ = inert_pickle.run(io.BytesIO(pickle.dumps(make.Armed(), protocol)))
    assert root.name == "tests.hostile_files.Armed"


def test_module_with_its_source_code_is_the_name_of_its_class():
    """How PyTorch before 1.6 referred to the class of a whole pickled model."""
    ident = b"(" + make.plain("module") + make.ARMED + make.plain("net.py") + make.plain("import os") + b"tQ"
    root, _ = inert_pickle.run(io.BytesIO(make.program(make.call(ident) + make.plain({"a": 1}) + b"b")))
    assert root.name == "tests.hostile_files.Armed"


def test_big_endian_numpy_number():
    scalar = np.dtype(">f8")
    body = make.call(make.named("numpy", "dtype"), make.plain("f8")) + make.plain((3, ">", None)) + b"b"
    body = make.call(make.named("numpy._core.multiarray", "scalar"), body, make.plain(np.array(0.91, scalar).tobytes()))
    root, _ = inert_pickle.run(io.BytesIO(make.program(body)))
    assert root == 0.91
