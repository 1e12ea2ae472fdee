"""The 63 points from iBUG's 68, on drawn faces that have both."""

import numpy as np

from tests.ibug68 import MIRROR, ibug68
from tramp_jax.data import landmarks
from tramp_jax.synthetic.faces import SyntheticFaces


def drawn_faces():
    """Points (n, NUM_POINTS, 2) of moving people, and their distance between the pupils."""
    source = SyntheticFaces(8, 1, ("smile", "squeeze_eyes", "frown"), with_frames=False)
    points = np.concatenate([source.scene(i)[1][::10] for i in range(len(source))])
    return points, np.linalg.norm(points[:, 38] - points[:, 92], axis=1)


def test_the_63_points_of_drawn_faces_follow_from_their_68():
    points, pupils = drawn_faces()
    made = landmarks.from_ibug68(ibug68(points))
    right = landmarks.select(points[:, :106], "insightface106")
    error = np.linalg.norm(made[:, :63] - right, axis=2) / pupils[:, None]
    thin = np.array(["brow_lower" in name for name in landmarks.SLOT_NAMES])
    assert thin.sum() == 8
    assert error[:, ~thin].mean() < 0.007
    assert error[:, ~thin].mean(axis=0).max() < 0.04  # at the side of the bridge
    assert 0.07 < error[:, thin].mean() < 0.09  # a brow's thickness
    np.testing.assert_allclose(made[:, 63], points[:, 86])


def test_a_mirrored_face_has_mirrored_points():
    points, _ = drawn_faces()
    found = landmarks.from_ibug68(ibug68(points))
    flipped = landmarks.from_ibug68(ibug68(points)[:, MIRROR] * (-1, 1))
    np.testing.assert_allclose(flipped, found[:, [*landmarks.MIRROR, 63]] * (-1, 1))


def test_a_moved_and_larger_face_has_moved_and_larger_points():
    points, _ = drawn_faces()
    found = landmarks.from_ibug68(ibug68(points))
    np.testing.assert_allclose(landmarks.from_ibug68(ibug68(points) * 2 + (3, 5)), found * 2 + (3, 5))
