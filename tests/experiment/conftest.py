import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished run of one seed, to be scored."""
    from run_makers import tiny

    from limbeck.experiment.run import run

    made: Path = tmp_path_factory.mktemp("run")
    run(tiny(seeds=1, compare=[], epochs=1, teacher_epochs=1), made)
    return made
