import pytest
import torch
from torch import Tensor

from mmbatch.encoders.image import TimmImage
from mmbatch.encoders.mixing import Mixing
from mmbatch.errors import InputError

CLASSES = 6


def batch(rows: int) -> tuple[dict[str, Tensor], Tensor]:
    """Random photos, each of another class."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (rows, 8, 8, 3), dtype=torch.uint8, generator=draw)
    return {"pixels": pixels}, torch.arange(rows)


def mix(mixing: Mixing, rows: int, seed: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    mixed, soft = mixing(*batch(rows))
    assert mixed.keys() == {"pixels"}
    return mixed["pixels"], soft


def test_mixup_is_the_convex_combination_that_the_targets_tell() -> None:
    photos = batch(4)[0]["pixels"].float()
    for seed in range(20):
        mixed, soft = mix(Mixing(mixup=0.4, cutmix=0.0, classes=CLASSES), 4, seed)
        assert mixed.dtype == soft.dtype == torch.float32
        assert (mixed.shape, soft.shape) == ((4, 8, 8, 3), (4, CLASSES))
        own = soft[torch.arange(4), torch.arange(4)].view(4, 1, 1, 1)
        torch.testing.assert_close(mixed, own * photos + (1 - own) * photos.roll(1, 0))
        torch.testing.assert_close(soft.sum(1), torch.ones(4))


def test_cutmix_takes_a_patch_as_large_as_the_targets_tell() -> None:
    photos = batch(4)[0]["pixels"].float()
    patches = []
    for seed in range(20):
        mixed, soft = mix(Mixing(mixup=0.0, cutmix=1.0, classes=CLASSES), 4, seed)
        own, other = (mixed == photos).all(3), (mixed == photos.roll(1, 0)).all(3)
        assert (own | other).all()
        torch.testing.assert_close(own.float().mean((1, 2)), soft[torch.arange(4), torch.arange(4)])
        patches.append(float(other.float().mean()))
    assert max(patches) > 0.2


def test_with_both_each_batch_takes_one_or_the_other() -> None:
    mixing = Mixing(mixup=1.0, cutmix=1.0, classes=CLASSES)
    whole = [bool((mix(mixing, 4, seed)[0] % 1 == 0).all()) for seed in range(60)]
    assert 15 < sum(whole) < 45


@pytest.mark.parametrize(("mixup", "cutmix"), [(1.0, 0.0), (0.0, 1.0)])
def test_a_batch_of_one_photo_stays_that_photo(mixup: float, cutmix: float) -> None:
    mixed, soft = mix(Mixing(mixup=mixup, cutmix=cutmix, classes=CLASSES), 1, 0)
    torch.testing.assert_close(mixed, batch(1)[0]["pixels"].float())
    torch.testing.assert_close(soft, torch.eye(CLASSES)[:1])


def test_without_mixing_targets_are_one_hot_and_photos_stay() -> None:
    inputs, targets = batch(4)
    mixed, soft = Mixing(mixup=0.0, cutmix=0.0, classes=CLASSES)(inputs, targets)
    assert mixed["pixels"] is inputs["pixels"]
    assert torch.equal(soft, torch.eye(CLASSES)[:4])


def test_mixing_comes_from_torchs_generator_and_leaves_the_batch_as_it_was() -> None:
    mixing = Mixing(mixup=0.4, cutmix=0.4, classes=CLASSES)
    first, again, other = (mix(mixing, 4, seed) for seed in (3, 3, 5))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[1], other[1])
    inputs, _ = batch(4)
    mixing(inputs, torch.arange(4))
    assert torch.equal(inputs["pixels"], batch(4)[0]["pixels"])


def test_mixed_photos_lie_channels_last() -> None:
    assert mix(Mixing(mixup=1.0, cutmix=0.0, classes=CLASSES), 4, 0)[0].is_contiguous()
    assert mix(Mixing(mixup=0.0, cutmix=1.0, classes=CLASSES), 4, 0)[0].is_contiguous()


def test_an_encoder_takes_mixed_photos_as_it_takes_whole_ones() -> None:
    encoder = TimmImage.from_scratch("test_resnet", size=32, seed=0).eval()
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(encoder(pixels=pixels), encoder(pixels=pixels.float()))


def test_texts_cannot_be_mixed() -> None:
    texts = {"input_ids": torch.zeros(2, 3, dtype=torch.int32), "attention_mask": torch.ones(2, 3)}
    with pytest.raises(InputError, match="mix photos, the encoder takes attention_mask, input_ids: set both to 0"):
        Mixing(mixup=0.2, cutmix=0.0, classes=CLASSES)(texts, torch.arange(2))
