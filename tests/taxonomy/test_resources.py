from pathlib import Path

import pytest

from kdflow.errors import KdflowError
from kdflow.resources import folder, specs_folder, taxonomy_folder


def test_the_folders_of_this_kdflow_are_found():
    assert (taxonomy_folder() / "tree.yaml").is_file()
    assert specs_folder().is_dir()


def test_an_installed_package_uses_its_own_resources(tmp_path: Path):
    package = tmp_path / "site-packages" / "kdflow"
    (package / "_resources" / "taxonomy").mkdir(parents=True)
    assert folder("taxonomy", package) == package / "_resources" / "taxonomy"


def test_a_checkout_uses_the_folder_beside_the_package(tmp_path: Path):
    package = tmp_path / "kdflow"
    (tmp_path / "specs").mkdir()
    package.mkdir()
    (tmp_path / "pyproject.toml").touch()
    assert folder("specs", package) == tmp_path / "specs"


def test_a_folder_of_another_distribution_is_not_taken(tmp_path: Path):
    package = tmp_path / "site-packages" / "kdflow"
    package.mkdir(parents=True)
    (tmp_path / "site-packages" / "specs").mkdir()
    with pytest.raises(KdflowError, match=r'the folder "specs" is missing.*Install kdflow again'):
        folder("specs", package)
