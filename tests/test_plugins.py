"""Third parties' plugins: installed as packages, used through the registry and the command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEMPLATE = """
from iepile_cli.backends import Backend, Probe
from iepile_cli.templates import Control, Template

def register(registry):
    registry.add(
        "template",
        "tiny",
        Template("tiny", question=(Control("<q>"), "{{query}}", Control("<a>"))),
        summary="for a tiny model",
    )
    registry.add("backend", "nowhere", Nowhere(), summary="runs nowhere")
    registry.add("backend", "late", "tiny_plugin:missing")

class Nowhere(Backend):
    def probe(self):
        return Probe(False, "there is no such machine", {"version": "7"})

    def open(self, model, options):
        raise NotImplementedError
"""


def package_files(name: str, code: str, entry: str) -> dict[str, str]:
    """The files of a package with an entry point, as they lie in a wheel."""
    module = name.replace("-", "_")
    info = f"{module}-1.2.dist-info"
    return {
        f"{module}.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[iepile.plugins]\n{name} = {entry}\n",
    }


def write_package(folder: Path, name: str, code: str, entry: str) -> None:
    """Put a package where an installer would."""
    for path, content in package_files(name, code, entry).items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(content, encoding="utf-8")


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def site(tmp_path: Path) -> Path:
    write_package(tmp_path, "tiny-plugin", TEMPLATE, "tiny_plugin:register")
    return tmp_path


def test_an_installed_package_brings_its_template(tmp_path: Path) -> None:
    pytest.importorskip("pip")
    wheel, site = tmp_path / "tiny_plugin-1.2-py3-none-any.whl", tmp_path / "site"
    files = package_files("tiny-plugin", TEMPLATE, "tiny_plugin:register")
    record = "".join(f"{path},,\n" for path in (*files, "tiny_plugin-1.2.dist-info/RECORD"))
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content in {**files, "tiny_plugin-1.2.dist-info/RECORD": record}.items():
            archive.writestr(path, content)
    install = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-index"]
    done = run(site, *install, "--no-deps", "--target", str(site), str(wheel))
    assert done.returncode == 0, done.stderr
    assert "tiny\ttiny-plugin 1.2\tyes\t\tfor a tiny model\n" in listing(site, "templates")


def listing(site: Path, kind: str, *options: str) -> str:
    done = run(site, "-m", "iepile_cli", "list", kind, *options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_names_are_listed_with_their_origin(site: Path) -> None:
    lines = listing(site, "templates").splitlines()
    assert "tiny\ttiny-plugin 1.2\tyes\t\tfor a tiny model" in lines
    assert "auto\tbuilt-in\tyes\t\tthe model's own chat template" in lines
    assert len(lines) == 30


def test_what_cannot_run_says_why(site: Path) -> None:
    rows = {row["name"]: row for row in json.loads(listing(site, "backends", "--json"))}
    assert rows["llama-cpp"]["ready"] is True
    assert rows["nowhere"] == {
        "name": "nowhere",
        "origin": "tiny-plugin 1.2",
        "ready": False,
        "reason": "there is no such machine",
        "summary": "runs nowhere",
        "details": {"version": "7"},
    }
    assert not rows["late"]["ready"]
    assert "missing" in rows["late"]["reason"]


def test_a_plugins_template_is_used_like_a_built_in_one(site: Path) -> None:
    code = (
        "from iepile_cli.registry import registry; "
        "template = registry().get('template', 'tiny'); "
        "print(template.prompt('why?').pieces, registry().entry('template', 'tiny').origin)"
    )
    done = run(site, "-c", code)
    assert done.stdout == (
        "(Bos(), Control(token='<q>', or_text=False), Text(text='why?'), "
        "Control(token='<a>', or_text=False)) tiny-plugin 1.2\n"
    )


def test_a_plugins_names_are_completed(site: Path) -> None:
    done = run(site, "-m", "iepile_cli", "extract", "--template", "ti", _IEPILE_COMPLETE="zsh")
    assert done.stdout == "tiny\tfor a tiny model\n"


def test_plugins_can_be_switched_off(site: Path) -> None:
    done = run(site, "-m", "iepile_cli", "list", "templates", IEPILE_PLUGINS="off")
    assert "tiny" not in done.stdout


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def register(registry): 1 / 0", "ZeroDivisionError"),
        ("register = None", "TypeError"),
        ("def register(registry): registry.add('template', 'qwen', None)", "already registered"),
        ("def register(registry): registry.add('template', 'other', 'x')\n" * 2, ""),
        ("def register(registry): registry.add('model', 'other', 3)", "ModelEntry"),
        ("def register(registry): registry.add('spoon', 'other', 3)", "spoon"),
    ],
)
def test_a_broken_plugin_is_named_and_stops_nothing(site: Path, code: str, reason: str) -> None:
    write_package(site, "bad-plugin", code, "bad_plugin:register")
    done = run(site, "-m", "iepile_cli", "list", "templates")
    assert done.returncode == 0
    assert "tiny\ttiny-plugin 1.2\tyes" in done.stdout
    if reason:
        assert done.stderr.startswith("iepile: the plugin bad-plugin of bad-plugin 1.2 cannot be")
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1
        assert "\nother\t" not in done.stdout
    else:
        # Named as "module:attribute" it is looked at only when it is used or listed.
        assert "other\tbad-plugin 1.2\tno\t" in done.stdout


def test_an_unknown_name_brings_close_ones(site: Path) -> None:
    code = "from iepile_cli.registry import registry; registry().get('template', 'llama2_hz')"
    done = run(site, "-c", code)
    assert "no template is called 'llama2_hz'" in done.stderr
    write_package(site, "bad-plugin", "import nothing_at_all", "bad_plugin:register")
    arguments = ("extract", "--schema", "a", "--template", "tni", str(ROOT / "pyproject.toml"))
    done = run(site, "-m", "iepile_cli", *arguments)
    assert done.returncode == 2
    assert "tiny" in done.stderr


LATE_MODEL = """
def register(registry):
    registry.add("model", "late", "late_plugin.nowhere:MODEL")
"""


def test_a_broken_model_of_a_plugin_does_not_stop_the_others(site: Path, tmp_path: Path) -> None:
    write_package(site, "late-plugin", LATE_MODEL, "late_plugin:register")
    extract = ["-m", "iepile_cli", "extract", "--schema", "person", str(ROOT / "README.md")]
    done = run(site, *extract, "--model", "owner/name", IEPILE_MODELS=str(tmp_path / "none"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "model 'owner/name' is not on this machine" in done.stderr
    # The name might have been one of the plugin's.
    assert "the model late of late-plugin 1.2 cannot be used: ModuleNotFoundError" in done.stderr
    done = run(site, *extract, "--model", "late")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "model 'late' of late-plugin 1.2 cannot be loaded: ModuleNotFound" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("extract", "--schema", "a", "--template", "mine"),
        ("extract", "--schema", "a", "--backend", "mine"),
        ("extract", "--schema", "a", "--model", "mine"),
        ("train", "--recipe", "mine"),
        ("download", "mine"),
    ],
)
def test_a_broken_plugin_is_named_where_a_name_is_not_found(
    site: Path, arguments: tuple[str, ...]
) -> None:
    write_package(site, "bad-plugin", "import nothing_at_all", "bad_plugin:register")
    done = run(site, "-m", "iepile_cli", *arguments, *[str(ROOT / "README.md")][: "a" in arguments])
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "is called 'mine'" in done.stderr
    assert "the plugin bad-plugin of bad-plugin 1.2 cannot be used: ModuleNotFound" in done.stderr


def test_a_plugins_recipe_is_used(site: Path, tmp_path: Path) -> None:
    code = """
from pathlib import Path

def register(registry):
    from iepile_cli.training.recipes import Recipe
    registry.add("recipe", "ours", Recipe("ours", Path(__file__).with_name("ours.toml")))
"""
    write_package(site, "recipe-plugin", code, "recipe_plugin:register")
    (site / "ours.toml").write_text("# What we use.\nmethod = 'full'\nbits = 4\n")
    assert "ours\trecipe-plugin 1.2\tyes" in listing(site, "recipes")
    done = run(
        site,
        *("-m", "iepile_cli", "train", "--recipe", "ours", "--model", "smollm2"),
        *("--data", "x", "-o", str(tmp_path / "o")),
    )
    assert (done.returncode, "--method full" in done.stderr) == (2, True)


def test_a_folder_that_cannot_be_read_does_not_matter() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        closed = Path(folder, "closed")
        closed.mkdir()
        closed.chmod(0)
        code = (
            "import importlib.metadata, os; from iepile_cli.registry import registry; "
            # Who may read everything becomes somebody who may not.
            "os.getuid() or os.setuid(65534); print(registry().names('backend'))"
        )
        done = run(closed, "-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert "llama-cpp" in done.stdout


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The plugin that the page shows, each block in the file that its first line names."""
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(?:python|toml)\n# (\S+)\n(.*?)```", page, re.DOTALL)
    files = dict(blocks)
    assert set(files) == {
        "pyproject.toml",
        "my_package/__init__.py",
        "my_package/my-recipe.toml",
    }
    entry = re.search(r"\[project\.entry-points\.\"iepile\.plugins\"\]\nmine = \"(.*)\"", page)
    assert entry
    write_package(tmp_path, "mine", "", entry[1])
    for path, text in blocks:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(f"# {path}\n{text}", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("templates", "mine\tmine 1.2\tyes\t\tfor my model"),
        (
            "models",
            "my-model\tmine 1.2\tno\tnot here: iepile download my-model"
            "\t\tgguf\t\t\t\t\t\tnot measured",
        ),
        (
            "recipes",
            "my-recipe\tmine 1.2\tno\tits model is not here: iepile download my-model"
            "\tmy_package/my-recipe.toml\t\t",
        ),
    ],
)
def test_the_example_of_the_docs_is_listed(example: Path, kind: str, line: str) -> None:
    assert line in listing(example, kind).splitlines()


def test_the_example_of_the_docs_is_used(example: Path) -> None:
    extract = ["-m", "iepile_cli", "extract", "--schema", "a", str(ROOT / "README.md")]
    done = run(example, *extract, "--model", "my-model")
    assert (done.returncode, "get it with: iepile download my-model" in done.stderr) == (1, True)


def test_a_backend_without_the_methods_is_named(site: Path) -> None:
    code = """
class Half:
    probe = 3

def register(registry):
    registry.add("backend", "half", Half())
"""
    write_package(site, "half-plugin", code, "half_plugin:register")
    done = run(site, "-m", "iepile_cli", "list", "backends")
    assert "the plugin half-plugin of half-plugin 1.2 cannot be used: TypeError" in done.stderr
    missing = done.stderr.partition("a backend must have ")[2].partition(" (see")[0].split(", ")
    assert {"open", "probe"} <= set(missing)


def backend_of_the_page() -> str:
    """The backend that docs/plugins.md shows."""
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    _, _, rest = page.partition("<!-- backend plugin -->\n```python\n")
    return rest.partition("```")[0]


def extract_with(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    text = folder / "text.txt"
    text.write_text("Ada met Bob in Oslo.", encoding="utf-8")
    call = ("-m", "iepile_cli", "extract", "-s", "person", "--backend", "my-backend", str(text))
    return run(folder, *call, *options)


def test_a_backend_written_as_the_page_shows_extracts(tmp_path: Path) -> None:
    code = backend_of_the_page().replace('return "{}"', 'return \'{"person": ["Ada", "Bob"]}\'')
    write_package(tmp_path, "my-plugin", code, "my_plugin:register")
    done = extract_with(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["answer"] == {"person": ["Ada", "Bob"]}
    refused = extract_with(tmp_path, "--parallel", "2")
    assert refused.returncode == 2
    assert "--parallel" in refused.stderr


def test_a_plugin_is_not_blamed_for_what_makes_its_requests(tmp_path: Path) -> None:
    write_package(tmp_path, "my-plugin", backend_of_the_page(), "my_plugin:register")
    code = (
        "from iepile_cli.backends.opening import open_model\n"
        "def requests():\n"
        "    raise ValueError('a fault of ours')\n"
        "    yield\n"
        "opened = open_model(backend='my-backend')\n"
        "try:\n"
        "    list(opened.runner.generate(requests()))\n"
        "except Exception as error:\n"
        "    print(repr(error))\n"
    )
    done = run(tmp_path, "-c", code)
    assert done.stdout == "ValueError('a fault of ours')\n", done.stderr


@pytest.mark.parametrize("works", ["return MyRunner(model)", 'return "{}"'])
def test_a_backend_that_fails_is_named_in_one_line(works: str, tmp_path: Path) -> None:
    code = backend_of_the_page()
    assert works in code
    code = code.replace(works, "return 1 / 0")
    write_package(tmp_path, "my-plugin", code, "my_plugin:register")
    done = extract_with(tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "my-backend of my-plugin 1.2 failed: ZeroDivisionError" in done.stderr


def test_a_backend_that_lacks_what_is_asked_of_it_is_refused_by_name(tmp_path: Path) -> None:
    code = backend_of_the_page().replace("class MyBackend(Backend):", "class MyBackend:")
    write_package(tmp_path, "my-plugin", code, "my_plugin:register")
    done = extract_with(tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "remote" in done.stderr
