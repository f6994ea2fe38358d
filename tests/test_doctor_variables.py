"""`smollm3-ft doctor` on the variables that give keys of the configuration."""

import pytest

from smollm3_ft import doctor, layers, services


@pytest.mark.parametrize(
    ("variables", "status", "said"),
    [
        ({}, "ok", "none gives a key"),
        ({"MAX_EPOCHS": "2"}, "ok", "MAX_EPOCHS gives train.epochs"),
        ({"LEARNING_RATE": "["}, "fault", "LEARNING_RATE: '[' in the environment cannot be read"),
        ({"LEARNING_RATE": "abc", "MAX_EPOCHS": "-1"}, "fault", "train.epochs (from MAX_EPOCHS): "),
    ],
)
def test_variables_that_give_keys(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], status: str, said: str
) -> None:
    """One that a run would stop at is named; where metrics go is not known while none can be read."""
    for name in layers.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = doctor.variables()
    assert (found.status, said in found.detail) == (status, True), found
    assert services.trackio().status == ("warning" if variables.get("LEARNING_RATE") == "[" else "ok")
