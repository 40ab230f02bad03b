"""The presets by name."""

from mmbatch.errors import InputError
from mmbatch.presets.base import Preset
from mmbatch.presets.flipkart import FLIPKART, FLIPKART_SMALL
from mmbatch.presets.kakao import KAKAO
from mmbatch.presets.rakuten import RAKUTEN2020
from mmbatch.presets.sample import SAMPLE

PRESETS = {preset.name: preset for preset in (SAMPLE, FLIPKART, FLIPKART_SMALL, KAKAO, RAKUTEN2020)}


def preset_named(name: str) -> Preset:
    """The preset of that name; `InputError` lists the names there are."""
    if name not in PRESETS:
        raise InputError(f"--preset {name}: there is none of that name, only {', '.join(sorted(PRESETS))}")
    return PRESETS[name]


__all__ = ["PRESETS", "Preset", "preset_named"]
