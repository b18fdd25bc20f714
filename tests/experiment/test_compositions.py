"""Papers that are compositions of terms and steps can be named in a recipe, as their pages write them."""

import pytest

from limbeck.catalogue import Makers
from limbeck.experiment.expressions import Names, parse
from limbeck.training.steps.mutual import Mutual

NAMES = Names("term", Makers("terms", "steps", "transforms"))

PAPERS = {
    "DHKD": ('CE() + OnHead(BinaryKLNorm(T=2), head="mlp")', "CE() + OnHead(BinaryKLNorm(T=2), tap='penultimate', head='mlp')"),
    "OFA": (
        'OFA(1.5) + OnHead(OFA(1.5), tap="layer?", head="exit") + CE()',
        "OFA(gamma=1.5, T=1, form='code') + OnHead(OFA(gamma=1.5, T=1, form='code'), tap='layer?', head='exit') + CE()",
    ),
    "AEKT, distillation first": ("KD() + Serial(CE())", "KD(T=4) + Serial(CE())"),
    "DHO": ("CE() * 0.5 + DHO(KD(T=2)) * 0.5", "CE() * 0.5 + DHO(KD(T=2), alpha=0.5, beta=0.5) * 0.5"),
    "SimKD": ('SimKD(tap="layer3")', "SimKD(tap='layer3', teacher_tap='layer3', ratio=2)"),
    "MIX-KD": ("Chain(CropFlip(), MixUp(mixed=0.1))", "Chain(CropFlip(padding=4, flip=True), MixUp(alpha=1.0, mixed=0.1))"),
}


@pytest.mark.parametrize(("text", "wanted"), PAPERS.values(), ids=PAPERS)
def test_it_is_read_as_its_page_writes_it(text: str, wanted: str) -> None:
    assert repr(parse(text, NAMES, key="objective").build()) == wanted


def test_a_sum_of_terms_may_be_an_argument() -> None:
    made = parse("Mutual(CE() + KD(T=1) * 0.5)", NAMES, key="step").build()
    assert isinstance(made, Mutual)
    assert repr(made) == "Mutual(CE() + KD(T=1) * 0.5)"
