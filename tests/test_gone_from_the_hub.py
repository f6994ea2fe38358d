"""What was published, and is deleted on the Hub since, does not count as published."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import configure
from hub import hub
from hub_spaces import routes

from smollm3_ft import runs
from smollm3_ft.config import Publish

pytestmark = pytest.mark.process

LOOK = """
import json, sys
from pathlib import Path
from smollm3_ft import publishing, runs
run = runs.read(Path(sys.argv[1]))
print(json.dumps([publishing.still_there(run, record) for record in json.loads(sys.argv[2])]))
"""


def test_what_is_still_there(tmp_path: Path) -> None:
    """Of a record: all of it, all but a demo Space, or nothing. Where the Hub is not asked or away, all of it."""
    run = runs.begin(configure(name="a", runs_dir=str(tmp_path)))
    publish = Publish(target="hub", repo="tester/a")
    runs.save(run.model_copy(update={"config": run.config.model_copy(update={"publish": publish})}))
    with hub(routes("")) as there:
        model = {"target": "hub", "repo": "tester/a", "commit": there.add("model", "tester/a", {}, private=True)}
        there.add("space", "tester/chat", {}, private=True)
        with_space: Any = model | {"demo_space": {"space": "tester/chat", "tried": True}}
        with_other = model | {"demo_space": {"space": "tester/gone", "tried": True}}
        gone, other = model | {"repo": "tester/gone"}, model | {"commit": "0" * 40}
        asked = json.dumps([with_space, with_other, gone, other])
        assert there.ask(LOOK, tmp_path, run.folder, asked) == [with_space, model, None, None]
        assert there.ask(LOOK, tmp_path, run.folder, asked, token="") == json.loads(asked)
        there.fault(9, 500)
        assert there.ask(LOOK, tmp_path, run.folder, json.dumps([gone])) == [gone]
