"""Pipeline files: YAML, or Python that binds `pipeline`.

Deploy walk: cluster.cli.serving -> [pipeline_files.py] -> pipeline.py
"""

import importlib.util
import sys
from functools import partial
from pathlib import Path

import yaml
from pydantic import ValidationError

from deployments.specs.pipeline import Pipeline
from training.errors import UserError, summarize_validation_error
from training.recipe.fields import list_valid_keys
from training.source_location import describe_error, locate_error


def load_pipeline(file: Path) -> Pipeline:
    """Read a pipeline from a file.

    Raises:
        UserError: no such file, or its content is not a valid pipeline; the message says where and why.
    """
    if file.suffix not in (".yaml", ".yml", ".py"):
        raise UserError(f"{file} is neither YAML nor Python; give a .yaml file, or a .py file that binds `pipeline`")
    if not file.is_file():
        raise UserError(f"no file {str(file)!r}; give a .yaml file, or a .py file that binds `pipeline`")
    try:
        return _load_python(file) if file.suffix == ".py" else _load_yaml(file)
    except ValidationError as error:
        list_keys = partial(list_valid_keys, Pipeline) if error.title == Pipeline.__name__ else None
        location = locate_error(error) if file.suffix == ".py" else ""
        raise UserError(f"{location or file}: {summarize_validation_error(error, list_keys)}") from error


def _load_yaml(file: Path) -> Pipeline:
    try:
        content = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}; make it readable") from error
    return Pipeline.model_validate(content)


def _load_python(file: Path) -> Pipeline:
    spec = importlib.util.spec_from_file_location("shoal_pipeline", file.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # The file can import the modules in its folder.
    sys.path.insert(0, str(file.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except ValidationError:
        raise
    except Exception as error:
        raise UserError(f"{file} cannot be imported: {describe_error(error)}") from error
    finally:
        sys.path.pop(0)
    pipeline = getattr(module, "pipeline", None)
    if not isinstance(pipeline, Pipeline):
        raise UserError(f"{file} binds no `pipeline`; add `pipeline = Pipeline(name=..., root=...)`")
    return pipeline
