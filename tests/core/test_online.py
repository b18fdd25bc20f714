"""Without a network the libraries of the hub do not retry, and are as they were afterwards."""

import pytest
from huggingface_hub import constants

from limbeck.core import online
from limbeck.core.errors import DataError
from limbeck.data.hub import HF
from limbeck.data.pretrained_tokenizer import Tokenizer
from limbeck.models.from_transformers import HFModel
from limbeck.models.spec import DataSpec


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_named: object) -> None:
        raise OSError("no network")

    def sleep(_seconds: float) -> None:
        raise AssertionError("somebody waits to try again")

    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setattr(online, "getproxies", dict)
    monkeypatch.setattr("time.sleep", sleep)


@pytest.mark.usefixtures("_no_network")
def test_what_was_not_downloaded_is_refused_at_once() -> None:
    said = "cannot be reached, and it was not downloaded before"
    for load in (
        lambda: HF("nobody/nothing-of-that-name"),
        lambda: HFModel("nobody/nothing-of-that-name").build(DataSpec("language", (8,), 30, 30)),
        lambda: HFModel("nobody/nothing-of-that-name", pretrained=False).build(DataSpec("language", (8,), 30, 30)),
        lambda: Tokenizer("nobody/nothing-of-that-name"),
    ):
        with pytest.raises(DataError, match=said) as caught:
            load()
        assert "\n" not in str(caught.value)
        assert not constants.HF_HUB_OFFLINE


def test_nobody_is_asked_for_what_is_not_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online, "_reached", lambda _host: pytest.fail("asked"))
    with online.hub(asked=False) as unreached:
        assert unreached == ""
    monkeypatch.setattr(online, "_reached", lambda _host: False)
    with online.hub() as unreached:
        assert constants.HF_HUB_OFFLINE
        assert constants.ENDPOINT.removeprefix("https://") in unreached
    assert not constants.HF_HUB_OFFLINE
