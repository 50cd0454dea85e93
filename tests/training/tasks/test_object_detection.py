import pytest
import torch
from torch import Tensor, nn

from tests.training.tasks.small_tasks import TWO_FEATURES, make_task
from training.data.dataset import Dataset
from training.data.preprocessing import EncodedRows
from training.errors import UserError
from training.tasks.centernet_loss import STRIDE, decode_peaks, detection_loss

LABELS = ("x", "y")
PADDING = [0.0, 0, 0, 0, -1]
BOXES = torch.tensor([[[2.0, 2, 12, 22, 0], [20, 20, 31, 27, 1]], [[5, 6, 19, 15, 1], PADDING]])


def build_maps(boxes_BM5: Tensor, cells: int = 8) -> Tensor:
    """Maps of a perfect net, with a score of nearly 1 for each box."""
    maps = torch.full((len(boxes_BM5), len(LABELS) + 4, cells, cells), -20.0)
    for image, boxes in enumerate(boxes_BM5.tolist()):
        for x1, y1, x2, y2, label in boxes:
            if label >= 0:
                x, y = (x1 + x2) / 2 / STRIDE, (y1 + y2) / 2 / STRIDE
                maps[image, int(label), int(y), int(x)] = 20.0
                maps[image, len(LABELS) :, int(y), int(x)] = torch.tensor(
                    [(x2 - x1) / STRIDE, (y2 - y1) / STRIDE, x - int(x), y - int(y)]
                )
    return maps


def test_perfect_maps_decode_into_the_boxes_best_first() -> None:
    detections = decode_peaks(build_maps(BOXES), num_classes=2, max_detections=3)

    is_confident = detections[..., 4] > 0.5
    assert is_confident.tolist() == [[True, True, False], [True, False, False]]
    decoded = torch.cat([detections[..., :4], detections[..., 5:]], 2)[is_confident]
    expected = BOXES[BOXES[..., 4] >= 0]
    assert torch.allclose(decoded[decoded[:, 0].argsort()], expected[expected[:, 0].argsort()], atol=1e-4)


def test_a_cell_beside_a_higher_one_is_no_peak() -> None:
    maps = build_maps(BOXES[1:])
    cell = (maps[0, 1] == 20.0).nonzero()[0]
    maps[0, 1, cell[0], cell[1] + 1] = 10.0

    scores = decode_peaks(maps, num_classes=2, max_detections=2)[0, :, 4]

    assert scores[0] > 0.99
    assert scores[1] < 0.01


def test_perfect_maps_have_no_loss_and_each_kind_of_error_adds_to_it() -> None:
    maps = build_maps(BOXES)

    perfect = detection_loss(maps, BOXES)

    assert perfect.item() == pytest.approx(0.0, abs=1e-3)
    too_wide, shifted, uncertain = maps.clone(), maps.clone(), maps.clone()
    too_wide[:, 2] += 1
    shifted[:, 4] += 1
    uncertain[:, :2] = uncertain[:, :2].clamp(max=0.0)
    # An error of one cell for each object, times the weight: 0.4 for sizes, 1 for offsets.
    assert detection_loss(too_wide, BOXES).item() == pytest.approx(0.4, abs=1e-3)
    assert detection_loss(shifted, BOXES).item() == pytest.approx(1.0, abs=1e-3)
    assert detection_loss(uncertain, BOXES).item() > 0.1


def test_images_without_boxes_have_a_finite_loss() -> None:
    assert detection_loss(torch.zeros(1, 6, 8, 8), torch.tensor([[PADDING]])).isfinite()


def test_map75_counts_only_boxes_with_an_iou_of_three_quarters() -> None:
    dataset = Dataset(torch.zeros(2, 1, 32, 32), BOXES, LABELS, input_schema=TWO_FEATURES)
    task = make_task("object-detection", dataset)
    detections = torch.cat([BOXES[..., :4], torch.tensor([[[0.9], [0.8]], [[0.7], [0.0]]]), BOXES[..., 4:]], 2)
    # The y box of the first image is too wide: an IoU of 11 / 17.
    detections[0, 1, 2] += 6

    eval_outputs = task.eval_outputs(nn.Identity(), detections, EncodedRows(torch.zeros(2, 1, 32, 32), BOXES))

    # At 0.75 label y has a false positive with the higher score, then one of its two boxes: 1/2 at 51 of 101 recalls.
    expected = {"map50": 1.0, "map75": (1.0 + 51 / 202) / 2}
    assert task.metrics(eval_outputs) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("targets", [torch.zeros(2), torch.zeros(2, 3, 4), None])
def test_targets_that_are_no_boxes_are_refused(targets: Tensor | None) -> None:
    dataset = Dataset(torch.zeros(2, 1, 8, 8), targets, LABELS, input_schema=TWO_FEATURES)

    with pytest.raises(UserError, match=r"targets of shape \(N, M, 5\)"):
        make_task("object-detection", dataset)
