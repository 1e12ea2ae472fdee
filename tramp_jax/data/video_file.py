"""Decodes a video file frame by frame: upright, progressive, with square pixels, and with the time of each frame.

FFmpeg decodes, through PyAV, and only one frame is held at a time. A file that cannot be read raises a ``UserError``
that names the file and the cure.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from tramp_jax.data import containers, tables
from tramp_jax.data.frame_numbers import spell
from tramp_jax.data.video_packets import Packets, damage
from tramp_jax.data.video_pictures import Combs, Picture, check_size, progressive
from tramp_jax.errors import UserError

# Factors between the camera's rate and the file's. A phone in the dark slows down by less than 3, but not from over 50.
_SLOW_MOTION, _SLOW_MOTION_ABOVE_50 = 3, 1.5
_PROBED = 9  # frames of Motion JPEG
_HDR = {16: "PQ", 18: "HLG"}  # FFmpeg's AVColorTransferCharacteristic
# Titles that are not UTF-8 must not make a video unreadable. From PyAV 19 on, they never do, and the option is gone.
_LENIENT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}


class VideoFile:
    """Frames of a video file as a player shows them.

    Interlaced frames are deinterlaced (one frame for two fields), non-square pixels are made square, rotation and
    mirror flags are applied, and frames hidden by an edit list are skipped.

    Attributes:
      path: the file.
      rate: nominal frames per second; 0 if the container does not say.
      damaged: frames that were skipped so far because they are damaged or their key frame was cut off.
      warnings: doubts about the file; complete once all frames have been read.
    """

    def __init__(self, path: Path):
        self.path, self.damaged = path, 0
        self.warnings: tuple[str, ...] = ()
        with self._open() as container:
            stream = _stream(container, path)
            self.rate = float(stream.guessed_rate or 0)
            self._options = _options(container, stream)

    def _open(self) -> InputContainer:
        # "file:" and the whitelist keep playlists and odd names from opening a connection.
        options = {"protocol_whitelist": "file"}
        try:
            return av.open(f"file:{self.path}", container_options=options, **_LENIENT)
        except (av.FFmpegError, ValueError) as error:
            raise UserError("unreadable_video", f"{self.path}: {containers.diagnosis(self.path)}") from error

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        """Yields (seconds since the first frame, (H, W, 3) uint8 RGB).

        Raises:
          UserError: no frame can be decoded, many are missing or damaged, or all are identical.
        """
        with self._open() as container:
            stream = _stream(container, self.path)
            stream.thread_type = "AUTO"
            stream.codec_context.options = self._options
            packets = Packets(container, stream)
            picture = Picture(self.path, stream)
            combs = Combs()
            first: np.ndarray | None = None
            count, still = 0, True
            try:
                for frame in progressive(self.path, stream, packets.frames()):
                    image = picture.show(frame, count)
                    if first is None:
                        first = image.copy()
                    still = still and np.array_equal(first, image)
                    if stream.codec_context.name != "gif":  # dithered colours look like combs
                        combs.look(image, count)
                    count, self.damaged = count + 1, packets.damaged + packets.headless
                    yield packets.seconds(frame), image
            except (av.FFmpegError, MemoryError) as error:
                raise UserError(
                    "unreadable_video",
                    f"{self.path}: {spell(count)} cannot be decoded ({error}); convert it with {containers.CONVERT}",
                ) from error
            others = tuple(containers.joined(self.path, packets.end))
            warnings = (
                *_other_videos(container, stream),
                *_wide_colours(stream),
                *_other_speed(container, stream),
                *containers.edited_speed(self.path),
                *picture.warnings,
                *combs.warnings(),
                *damage(self.path, count, packets, "".join(others)),
                *others,
            )
        if count > 1 and still:
            raise UserError(
                "still_video",
                f"{self.path}: all {count} frames are identical, so no face moves; record the person again, or export "
                "one frame as an image",
            )
        self.warnings = warnings


def _stream(container: InputContainer, path: Path) -> VideoStream:
    """The video stream that a player shows."""
    moving = _without_stills(container)
    if not moving:
        what = containers.ONLY_SOUND if container.streams.audio else containers.diagnosis(path)
        raise UserError("unreadable_video", f"{path}: {what}")
    best = container.streams.best("video")
    stream = best if best in moving else moving[0]
    if stream.codec_context is None:  # FFmpeg does not know the codec
        raise UserError("unreadable_video", f"{path}: {containers.diagnosis(path)}")
    check_size(path, stream.codec_context.width, stream.codec_context.height)
    return stream


def _options(container: InputContainer, stream: VideoStream) -> dict[str, str]:
    """Options with which the Motion JPEG decoder reports damage, unless most of the first frames break the rules."""
    if stream.codec_context.name != "mjpeg":
        return {}
    stream.codec_context.options = strict = {"err_detect": "explode"}
    packets, whole = container.demux(stream), 0
    for _ in range(_PROBED):
        try:
            packet = next(packets, None)
            whole += bool(packet and packet.decode())
        except av.FFmpegError:
            whole -= 1
    return strict if whole > 0 else {}  # some cameras never write whole frames


def _without_stills(container: InputContainer) -> list[VideoStream]:
    """The video streams, without cover pictures and stills."""
    streams = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
    return [each for each in streams if each.frames != 1] or streams


def _other_videos(container: InputContainer, stream: VideoStream) -> Iterator[str]:
    """Warns if the file holds several videos."""
    if (count := len(_without_stills(container))) > 1:
        yield f"the file holds {count} videos; read number {stream.index}, with {stream.width}×{stream.height} pixels"


def _wide_colours(stream: VideoStream) -> Iterator[str]:
    """Warns about high dynamic range, whose colours are not those of ordinary video."""
    if name := _HDR.get(int(stream.codec_context.color_trc or 0)):
        yield (
            f"the video is HDR ({name}), so its colours look pale and its contrast differs; switch HDR off in the "
            "camera, or convert it with `ffmpeg -i IN -vf zscale=t=linear:npl=100,tonemap=hable,zscale=t=bt709:m=bt709:"
            "p=bt709,format=yuv420p OUT.mp4`"
        )


def _other_speed(container: InputContainer, stream: VideoStream) -> Iterator[str]:
    """Warns about slow motion and time lapse, for which phones record how many frames a second the camera took."""
    taken = tables.number(container.metadata.get("com.android.capture.fps", ""))
    shown = float(stream.average_rate or 0)
    least = _SLOW_MOTION_ABOVE_50 if taken and taken > 50 else _SLOW_MOTION
    if taken and shown and not 1 / _SLOW_MOTION < taken / shown < least:
        what = "slow motion" if taken > shown else "time lapse"
        yield (
            f"{what}: the camera took {taken:.4g} frames per second and the file shows {shown:.4g}, so the face moves "
            f"at a different speed than in life; use `ffmpeg -i IN -vf setpts=PTS*{shown / taken:.4g} -r {taken:.4g} "
            "OUT.mp4`, or record it again at the usual speed"
        )
