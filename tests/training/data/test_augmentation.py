import torch

from training.data.augmentation import random_affine


def test_augmentation_repeats_with_its_generator_and_varies_without() -> None:
    x = torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8)

    first, again, other = (random_affine(x, x, torch.Generator().manual_seed(seed))[0] for seed in (0, 0, 1))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_affine_transform_of_no_amount_leaves_images_unchanged() -> None:
    x = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)

    y, _ = random_affine(x, x, torch.Generator(), degrees=0, scale=0, shear=0, translate=0)

    assert torch.allclose(y, x.float(), atol=1e-2)
