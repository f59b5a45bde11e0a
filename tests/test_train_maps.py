"""Frame maps: what is stored comes back frame by frame, with its mean."""

from __future__ import annotations

import torch
from torch import Tensor

from train.data.batch import Frames, Shapes
from train.data.maps import FrameMaps

CLIPS, FRAMES, CHANNELS, SIDE = 5, 3, 6, 2


def drawn() -> Tensor:
    """Maps as cached: (clips, F, C, √S, √S) float16."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(CLIPS, FRAMES, CHANNELS, SIDE, SIDE, generator=generator).half()


def stored(maps: Tensor) -> FrameMaps:
    shapes = Shapes(0, CHANNELS, cells=SIDE, classes=1, clip_seconds=1.0)
    table = FrameMaps.allocate(CLIPS, FRAMES, shapes, torch.empty(0, dtype=torch.float16))
    beside = torch.empty(CLIPS, FRAMES, 0)
    table.put(slice(0, 2), maps[:2], beside[:2])
    table.put(torch.tensor([4, 2, 3]), maps[[4, 2, 3]], beside[[4, 2, 3]])
    return table


def test_what_is_put_comes_back_with_its_means() -> None:
    maps = drawn()
    table = stored(maps)
    assert table.cells.dtype == torch.float16
    assert torch.equal(table.cells, maps.flatten(3).transpose(2, 3))
    assert table.means.dtype == torch.float32
    torch.testing.assert_close(table.means, maps.float().mean(dim=(3, 4)))
    torch.testing.assert_close(FrameMaps(table.cells).means, table.means)


def test_maps_are_fetched_by_frame_in_any_order() -> None:
    table = stored(drawn())
    rows = table.rows(torch.tensor([3, 0]))
    assert rows.tolist() == [[9, 10, 11], [0, 1, 2]]
    frames = Frames(table, rows, torch.zeros(2, FRAMES), torch.ones(2))
    assert torch.equal(frames.means(), table.means[[3, 0]])
    assert torch.equal(frames.cells(), table.cells[[3, 0]].flatten(0, 1).float())
    some = frames.cells(torch.tensor([5, 0, 5]))
    assert torch.equal(some, table.cells[[0, 3, 0], [2, 0, 2]].float())


def test_half_maps_share_a_buffer_that_grows_and_whole_ones_are_their_own() -> None:
    table = stored(drawn())
    few, many = (table.of(torch.arange(count)) for count in (2, 9))
    assert few.data_ptr() != many.data_ptr()
    assert table.of(torch.arange(4)).data_ptr() == many.data_ptr()
    plain = FrameMaps(table.cells.float())
    one, two = plain.of(torch.arange(2)), plain.of(torch.arange(2))
    assert one.data_ptr() != two.data_ptr()


def test_a_buffer_first_filled_in_inference_serves_training() -> None:
    table, weight = stored(drawn()), torch.ones(CHANNELS, requires_grad=True)
    with torch.inference_mode():
        table.of(torch.arange(4))
    (table.of(torch.arange(3)) @ weight).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, table.cells.flatten(0, 1)[:3].float().sum(dim=(0, 1)))


def test_clips_are_frames_of_their_own_maps() -> None:
    cells = torch.randn(2, FRAMES, 4, CHANNELS, generator=torch.Generator().manual_seed(1))
    frames = Frames.of(cells, torch.zeros(2, FRAMES), torch.ones(2))
    assert torch.equal(frames.cells(), cells.flatten(0, 1))
    torch.testing.assert_close(frames.means(), cells.mean(dim=2))
