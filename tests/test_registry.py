"""Words are found without importing anything, and wrong words are answered helpfully."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import zoo
from zoo import registry
from zoo.registry import KINDS, entries, names, resolve, snake_case, unknown

WORDS = [(kind, word) for kind in KINDS for word in names(kind)]


@pytest.mark.parametrize(("kind", "word"), WORDS)
def test_every_word_resolves_and_says_what_it_is(kind: str, word: str) -> None:
    assert names(kind)[word].strip(), f"{word} has no docstring"
    value = resolve(kind, word)
    if kind in ("models", "families", "inference"):
        assert inspect.isclass(value)
    else:
        assert callable(value)
    if kind == "models":
        assert issubclass(value, zoo.Model)


@pytest.mark.parametrize(
    ("kind", "package"), [("models", "zoo.models"), ("families", "guides.families")]
)
def test_every_public_file_is_registered(kind: str, package: str) -> None:
    files = {module.rpartition(".")[2] for module, _ in registry._modules(package)}
    assert files == set(names(kind)), "a helper file's name starts with an underscore"


def test_objectives_have_one_home_each() -> None:
    found = [word for word, _ in registry._objectives()]
    assert len(found) == len(set(found))


def test_listing_imports_neither_torch_nor_pyro() -> None:
    code = (
        "import sys; from zoo.registry import KINDS, names; [names(kind) for kind in KINDS]; "
        "heavy = {'torch', 'pyro', 'sklearn', 'numpy'} & sys.modules.keys(); "
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("PerDatapoint", "per_datapoint"),
        ("Amortized", "amortized"),
        ("PPCA", "ppca"),
        ("IWAEBound", "iwae_bound"),
        ("FullRank2", "full_rank2"),
        ("M2", "m2"),
    ],
)
def test_snake_case(name: str, word: str) -> None:
    assert snake_case(name) == word


@pytest.mark.parametrize(
    ("wanted", "nearest"),
    [("mean-field", "mean_field"), ("MEAN_FIELD", "mean_field"), ("ful_rank", "full_rank")],
)
def test_unknown_words_suggest_the_nearest(wanted: str, nearest: str) -> None:
    message = str(unknown("family", wanted, ["full_rank", "mean_field", "delta"]))
    assert f"there is no family {wanted!r}. Did you mean {nearest!r}" in message
    assert "Known: delta, full_rank, mean_field" in message


def test_a_word_like_no_other_lists_what_there_is() -> None:
    message = str(unknown("family", "zzz", ["delta"]))
    assert "mean" not in message and "Known: delta" in message


def test_unknown_kinds_and_words_are_errors() -> None:
    with pytest.raises(ValueError, match="Did you mean 'models'"):
        names("model")
    for kind in KINDS:
        with pytest.raises(ValueError, match="there is no .* 'nonesuch'"):
            resolve(kind, "nonesuch")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with an empty folder of models."""
    folder = tmp_path / "toy_zoo" / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_a_file_is_its_own_registration(package: Path) -> None:
    (package / "__init__.py").touch()
    (package / "_shared.py").write_text("class Shared(Model): pass")
    (package / "second.py").write_text(
        '"""Of the file."""\nimport nonesuch\nclass Part(Module): pass\nclass A(zoo.Model): pass'
    )
    (package / "first.py").write_text(
        'class _Hidden(Model): pass\nclass Generic(Model[T]):\n    """One line.\n\n    More."""'
    )
    found = dict(registry._one_class_a_file("toy_zoo.models", "Model"))
    assert found == {
        "first": registry.Entry("toy_zoo.models.first", "Generic", "One line."),
        "second": registry.Entry("toy_zoo.models.second", "A", "Of the file."),
    }


def test_two_models_in_one_file_are_refused(package: Path) -> None:
    (package / "pair.py").write_text("class A(Model): pass\nclass B(Model): pass")
    with pytest.raises(ValueError, match=r"pair holds 2 public classes with base Model \(A, B\)"):
        list(registry._one_class_a_file("toy_zoo.models", "Model"))


def test_a_package_that_is_not_installed_has_no_words() -> None:
    assert list(registry._modules("nonesuch.models")) == []


def test_all_decides_what_is_public(package: Path) -> None:
    (package / "bounds.py").write_text(
        '__all__: list[str] = ["elbo"]\ndef elbo(): pass\ndef helper(): pass'
    )
    ((_, tree),) = registry._modules("toy_zoo.models")
    assert [node.name for node in registry._public(tree, registry.ast.FunctionDef)] == ["elbo"]


MODEL = "import zoo\nclass {}(zoo.Model):\n    def forward(self, n): ...\n"


@pytest.mark.parametrize("suffix", ["", ":Mine"])
def test_a_users_file_is_a_model(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "my_model.py"
    path.write_text(MODEL.format("Mine"))
    model = resolve("models", f"{path}{suffix}")
    assert model.__name__ == "Mine" and issubclass(model, zoo.Model)
    assert resolve("models", str(path)) is model


def test_a_users_file_may_stand_on_a_model_of_ours(tmp_path: Path) -> None:
    (tmp_path / "base.py").write_text(MODEL.format("Base"))
    path = tmp_path / "child.py"
    path.write_text(
        "import zoo.model\nfrom zoo import Model\nfrom zoo.functions import PlainModel\n"
        "class Child(PlainModel): pass\nclass _Part(Model): pass\n"
    )
    assert resolve("models", str(path)).__name__ == "Child"


@pytest.mark.parametrize(
    ("text", "suffix", "message"),
    [
        (None, "", "there is no file"),
        ("x = 1", "", "defines no subclass of Model"),
        ("from zoo.functions import PlainModel", "", "defines no subclass of Model"),
        (MODEL.format("A") + MODEL.format("B"), "", r"name one: my_model.py:A or my_model.py:B"),
        (MODEL.format("Mixture"), ":Mixtur", "Did you mean 'Mixture'"),
        ("x = 1", ":Mixture", "there is no Model subclass in my_model.py called 'Mixture'"),
    ],
)
def test_errors_about_a_users_file_are_words(
    tmp_path: Path, text: str | None, suffix: str, message: str
) -> None:
    path = tmp_path / "my_model.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        resolve("models", f"{path}{suffix}")


def test_a_users_file_that_fails_shows_its_own_error_each_time(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("raise ZeroDivisionError('in the file')")
    for _ in range(2):
        with pytest.raises(ValueError, match="ZeroDivisionError: in the file"):
            resolve("models", str(path))


def test_entries_name_their_home() -> None:
    for kind in KINDS:
        for word, entry in entries(kind).items():
            homes = ("experiments",) if kind == "recipes" else ("zoo", "guides")
            assert entry.module.split(".")[0] in homes, word
