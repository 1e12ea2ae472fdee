"""The report: one file that fetches nothing, escapes every text, and shows everything that it must."""

import base64
import dataclasses
import hashlib
import html.parser
import itertools
import re

import cv2
import numpy as np
import pytest

from tests import tiny
from tramp_jax.batches import view
from tramp_jax.data import landmarks
from tramp_jax.report import page, plots, record, writer
from tramp_jax.report.attribution import ELSEWHERE, LANDMARKS, PICTURES, Attribution
from tramp_jax.synthetic.faces import SyntheticFaces

HOSTILE = "\"><script>alert(1)</script><img src=http://example.org/x onerror=alert(2)>'&amp;"


@pytest.fixture(scope="module")
def clip():
    return SyntheticFaces(2, 1, ("smile",), seed=5)[1]


@pytest.fixture(scope="module")
def attribution(clip):
    """Invented but consistent: in frame 30, the eye on the left of the picture raised the score by 1.5."""
    n = len(clip.landmarks)
    trajectory, frames = np.zeros((n, 63, 5)), np.zeros((n, 32, 32))
    trajectory[30, 4] = 0.3
    frames[20, 25, 16] = -0.25
    regions = np.zeros((n, 7))
    regions[30, 0], regions[20, 5] = 1.5, -0.25
    names = (*landmarks.REGIONS, ELSEWHERE)
    read = {LANDMARKS: np.arange(n) > 3, PICTURES: np.arange(n) % 4 == 0}
    return Attribution(2.5, 1.251, trajectory, "xyrgb", frames, regions, names, read, 0.001, True, 42)


@pytest.fixture(scope="module")
def evidence(clip, attribution):
    return record.Evidence(
        clip,
        score=2.5,
        interval=(1.75, 3.25),
        interval_note="90% of new people",
        attribution=attribution,
        interpolated=[4, 5, 6, 11],
        warnings=["The face is small."],
        provenance=record.provenance(clip, tiny.get_config(), model="tiny", checkpoint="best, step 7"),
    )


@pytest.fixture(scope="module")
def document(evidence):
    return writer.render(evidence)


class Read(html.parser.HTMLParser):
    """A document as a browser sees it: its elements with their attributes, and its text."""

    def __init__(self, document: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(document)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def named(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


def check_fetches_nothing(document: str) -> None:
    read = Read(document)
    assert not read.named("script", "link", "iframe", "object", "embed", "base", "form", "video", "audio", "a")
    for _, attributes in read.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), name
            assert name not in ("href", "xlink:href", "srcset", "action", "data", "poster", "background")
            if name == "src":
                assert value.startswith(("data:image/png;base64,", "data:image/jpeg;base64,"))
            if name == "style":
                assert "url(" not in value
    style = re.search("<style>(.*?)</style>", document, re.S).group(1)
    assert "url(" not in style
    assert "@import" not in style
    policy = [x["content"] for x in read.named("meta") if x.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_nothing_is_fetched(document):
    check_fetches_nothing(document)
    assert not re.search(r"https?:|//[a-z]|url\(", re.sub(r"base64,[A-Za-z0-9+/=]+", "", document))
    for injected in ("<script src=x></script>", '<p style="background:url(x)">', '<img src="http://x/y.png">'):
        with pytest.raises(AssertionError):
            check_fetches_nothing(document.replace("</main>", injected + "</main>"))


def test_texts_are_escaped(evidence, undrawn):
    info = dataclasses.replace(
        evidence.clip.info, id=HOSTILE, subject=HOSTILE, expression=HOSTILE, source=f"/videos/{HOSTILE}.mp4"
    )
    clip = dataclasses.replace(evidence.clip, info=info)
    hostile = dataclasses.replace(
        evidence,
        clip=clip,
        scale=record.RatingScale(HOSTILE, low_means=HOSTILE, high_means=HOSTILE),
        interval_note=HOSTILE,
        warnings=[HOSTILE],
        provenance=record.provenance(clip, tiny.get_config(), model=HOSTILE) | {HOSTILE: HOSTILE},
    )
    for shown in (hostile, dataclasses.replace(hostile, interval=None, attribution=None, attribution_note=HOSTILE)):
        document = writer.render(shown)
        check_fetches_nothing(document)
        read = Read(document)
        assert len(read.named("img")) == (5 if shown.attribution else 4)
        assert f"/videos/{HOSTILE}.mp4" in read.text
        assert read.text.count(HOSTILE) >= 8


def test_the_report_shows_what_it_must(document, evidence):
    text = Read(document).text
    assert text.count(writer.NOTICE) == 2
    assert "Smile: 2.50 on MDS-UPDRS" in text
    assert "Interval 1.75 to 3.25 (90% of new people)." in text
    assert "0 (normal) to 4 (severe)" in text
    # The eye on the left of the picture is the person's right one.
    assert "the model's score would be 1.25. Movement changed the score by +1.25." in text
    assert "right eye (+1.50), mouth (-0.25)" in text
    assert "add up to +1.2500; the score changed by +1.2490. The error is 0.001 (0.08% of the change)" in text
    count = len(evidence.clip.landmarks)
    assert f"The landmarks were interpolated, not measured, in frames 5-7, 12 (4) of {count}." in text
    assert "The face is small." in text
    for label in record.PROVENANCE.values():
        assert label in text
    assert "best, step 7" in text
    assert "not recorded" in text  # the SHA-256, as there was no file
    assert evidence.clip.info.id in text


def test_a_report_lists_the_ratings_and_says_what_cannot_be_trusted(evidence, undrawn):
    shown = dataclasses.replace(evidence, level=0.9, ratings=(2.0, 3.0), outside="it shakes")
    text = Read(writer.render(shown)).text
    assert "Rating 2 or 3, 90%." in text
    assert "2.50 on MDS-UPDRS, but outside what the model was trained on" in text
    nothing = {"score": float("nan"), "interval": None, "ratings": (), "attribution": None}
    document = writer.render(dataclasses.replace(shown, withheld="interval too wide", **nothing))
    held = Read(document).text
    assert "The score is withheld: interval too wide." in held
    assert not re.search(r"\bnan\b", held)
    assert not Read(document).named("svg")
    assert "Rating" not in held


def test_a_scale_of_one_rating_is_drawn():
    assert 'cx="20.0"' in page.scale(2, 2, 2, (2, 2), "all clips have the same rating")


def test_the_strongest_half_second_holds_the_strongest_frame(attribution):
    start, stop = writer.strongest_moment(attribution, 25.0)
    assert start <= 30 / 25 < stop
    assert stop - start == pytest.approx(12 / 25)


def test_the_report_says_why_something_is_missing(clip, evidence, undrawn):
    bare = dataclasses.replace(clip, frames=None, pixels=None)
    shown = record.Evidence(bare, 3.2, interval_note="not calibrated", attribution_note="switched off")
    text = Read(writer.render(shown)).text
    assert "No interval: not calibrated." in text
    assert text.count("not available (switched off)") == 2  # in the summary, and once in its section of two parts
    assert "Pixel values: not available (the clip has no frames)." in text
    assert "No landmarks were interpolated." in text
    assert text.count("not recorded") >= len(record.PROVENANCE)
    short = record.Evidence(dataclasses.replace(bare, landmarks=bare.landmarks[:3]), 1.0)
    assert "Movement: not available (the clip has 3 frames; at least 5 are needed)." in Read(writer.render(short)).text

    def text_with(**changes: object) -> str:
        attribution = dataclasses.replace(evidence.attribution, **changes)
        return Read(writer.render(dataclasses.replace(evidence, attribution=attribution))).text

    assert "did not reach the requested accuracy" in text_with(converged=False)
    assert "no region or moment stands out" in text_with(baseline_score=2.5)


def test_it_can_be_read_without_seeing_it(document):
    read = Read(document)
    assert read.named("html") == [{"lang": "en"}]
    assert len(read.named("title")) == len(read.named("h1")) == 1
    assert read.named("meta")[2]["name"] == "viewport"
    pictures = read.named("img")
    assert len(pictures) == 5
    assert all(len(picture["alt"]) > 40 for picture in pictures)
    assert len({picture["alt"] for picture in pictures}) == 5
    assert [x["role"] for x in read.named("svg")] == ["img"]
    assert "Score 2.50" in read.named("svg")[0]["aria-label"]
    assert all(cell.get("scope") in ("row", "col") for cell in read.named("th"))
    assert len(read.named("caption")) == len(read.named("table")) == 5
    levels = [int(tag[1]) for tag, _ in read.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert "prefers-color-scheme: dark" in page.STYLE
    assert "@media print" in page.STYLE


def test_one_file_of_moderate_size(tmp_path, evidence, document, monkeypatch):
    path = tmp_path / "clip.html"
    monkeypatch.setattr(writer, "render", lambda _: document)  # not drawn again
    writer.write_report(path, evidence)
    assert [p.name for p in tmp_path.iterdir()] == ["clip.html"]
    assert 100_000 < path.stat().st_size < 3_000_000
    assert path.read_text("utf-8").startswith("<!DOCTYPE html>")


def image(html: str) -> np.ndarray:
    """The pixels (H, W, 3) of the picture in a piece of HTML."""
    data = base64.b64decode(re.search('base64,([^"]+)', html).group(1))
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def test_plots_change_with_the_data(clip, attribution):
    shaken = dataclasses.replace(
        clip,
        landmarks=clip.landmarks + 9 * np.sin(np.arange(clip.info.num_frames))[:, None, None] * (clip.landmarks > 128),
        pixels=clip.pixels // 2,
    )
    negated = dataclasses.replace(attribution, regions=-attribution.regions, trajectory=-attribution.trajectory)
    # On one scale with the landmarks, the patches would be pale.
    patches = dataclasses.replace(attribution, trajectory=None)
    plain, moved = record.Evidence(clip, 2.5), record.Evidence(shaken, 2.5)
    filled = dataclasses.replace(plain, interpolated=[3])
    explained, other, by_patch, other_patch = (
        dataclasses.replace(plain, attribution=found)
        for found in (attribution, negated, patches, dataclasses.replace(patches, frames=-patches.frames))
    )
    for plot, one, two in (
        (plots.landmark_paths, plain, moved),
        (plots.region_courses, plain, moved),
        (plots.region_courses, plain, filled),
        (plots.pixel_values, plain, moved),
        (plots.attribution_over_time, explained, other),
        (plots.contact_sheet, explained, other),
        (plots.contact_sheet, by_patch, other_patch),
        (plots.contact_sheet, plain, moved),
    ):
        a, b = image(plot(one)), image(plot(two))
        assert a.shape == b.shape
        assert a.std() > 5
        assert (np.abs(a.astype(int) - b) > 25).sum() > 100, plot.__name__


def test_the_map_over_time_tells_the_pictures_that_were_read_from_events_in_the_face(attribution, clip, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "_encode", lambda figure, *_: drawn.append(figure) or b"\x89PNG")
    html = plots.attribution_over_time(record.Evidence(clip, 2.5, attribution=attribution))
    n = clip.info.num_frames
    read = attribution.read[PICTURES]
    assert f"only {read.sum()} of {n} frames" in html
    of_landmarks, one_sum, of_pictures, other_sum, _ = drawn[0].axes
    assert one_sum.get_ylim() == other_sum.get_ylim()
    for axes, stream, frame, region in ((of_landmarks, LANDMARKS, 30, 0), (of_pictures, PICTURES, 20, 5)):
        (cells,) = (shown.get_array() for shown in axes.collections if shown.get_array() is not None)
        assert cells.shape[1] == n
        assert np.flatnonzero(cells.filled(0)).tolist() == [region * n + frame]
        np.testing.assert_array_equal(~np.ma.getmaskarray(cells).any(axis=0), attribution.read[stream])
        hatched = [(span.get_x(), span.get_x() + span.get_width()) for span in axes.patches]
        for t, seen in enumerate(attribution.read[stream]):
            assert any(start < (t + 0.5) / clip.fps < stop for start, stop in hatched) != seen
    motion = dataclasses.replace(attribution, frames=None, read={LANDMARKS: attribution.read[LANDMARKS]})
    assert "picture" not in plots.attribution_over_time(record.Evidence(clip, 2.5, attribution=motion))


def test_the_contact_sheet_counts_frames_from_one(clip, attribution, monkeypatch):
    titles = []
    monkeypatch.setattr(plots, "_frame", lambda axes, box, title="": titles.append(title))
    plots.contact_sheet(record.Evidence(clip, 2.5, attribution=attribution))
    runs = [[int(number) for number in re.findall(r"\d+", title)] for title in titles[1::2]]
    assert runs[0][0] == 1
    assert runs[-1][-1] == clip.info.num_frames
    assert [start for start, _ in runs[1:]] == [stop + 1 for _, stop in runs[:-1]]
    for title, (start, stop) in zip(titles[::2], runs, strict=True):
        assert start <= int(re.search(r"\d+", title)[0]) <= stop


def test_provenance_names_the_file_and_the_frames(tmp_path, clip, config):
    path = tmp_path / "video.mp4"
    path.write_bytes(b"moving pictures")
    clip = dataclasses.replace(clip, info=dataclasses.replace(clip.info, source=str(path)))
    found = record.provenance(clip, config, missing_ratio="2%")
    assert found["sha256"] == hashlib.sha256(b"moving pictures").hexdigest()
    assert found["file"] == str(path)
    assert found["missing_ratio"] == "2%"
    assert found["config"] == "tiny"
    assert "jax " in found["versions"]
    T, count = config.model.trajectory.length, config.model.rgb.num_frames
    assert view.describe(config, 200) == f"trajectory: the last {T} of 200; pictures: {count} evenly spaced of 200"
    assert view.describe(config, 7) == f"trajectory: all 7, repeated to {T}; pictures: all 7, repeated to {count}"
    config.data.padding = "zero"
    config.data.frame_padding = "repeat"
    trajectory, pictures = view.describe(config, 7).split(";")
    assert "zeros" in trajectory
    assert "the last one repeated" in pictures
    config.model.streams = "trajectory"
    assert "pictures" not in view.describe(config, 200)
