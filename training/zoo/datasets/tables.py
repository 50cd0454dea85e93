"""Small textbook tables: iris, wine and breast cancer for classification, diabetes and auto MPG for regression.

Each function returns raw values in their own units: inputs float32 (N, F), targets int64 (N,) classes or float32 (N,)
values. Standardization is a layer of the published net.
"""
# Shapes: N rows, F features.

import gzip

import numpy as np
import torch

from training.data.dataset import Dataset
from training.schema import Feature, TableInput
from training.zoo.datasets.package_files import read_package_file

_INSTALL_COMMAND = "pip install '.[data]' in Shoal's checkout"

# Ten measures of the cell nuclei in an image; each has a mean, a standard error, and the mean of the three largest.
_NUCLEUS_MEASURES = (
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "concave points",
    "symmetry",
    "fractal dimension",
)
_ORIGINS = ("usa", "europe", "japan")


def iris() -> Dataset:
    """150 iris flowers of three species (Fisher, 1936), from scikit-learn."""
    header, table_NF = _read_sklearn_csv("iris.csv", "f13ffa8fdd56fd8e6c8d16d4081a3fbd3114bcd0aae4256c43205169cd9d1449")
    return Dataset(
        inputs=torch.from_numpy(table_NF[:, :-1].astype(np.float32)),
        targets=torch.from_numpy(table_NF[:, -1].astype(np.int64)),
        labels=tuple(header[2:]),
        input_schema=_numeric_schema("sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"),
        source="Iris (Fisher, 1936; UCI), as scikit-learn ships it",
        license="CC BY 4.0",
    )


def wine() -> Dataset:
    """178 wines of three growers in one region of Italy, by chemistry (Forina et al., 1988), from scikit-learn."""
    header, table_NF = _read_sklearn_csv(
        "wine_data.csv", "10e8a802908b34f86e5da8ce962f3c806694bc98450a18f61851af59f324bede"
    )
    return Dataset(
        inputs=torch.from_numpy(table_NF[:, :-1].astype(np.float32)),
        targets=torch.from_numpy(table_NF[:, -1].astype(np.int64)),
        labels=tuple(header[2:]),
        input_schema=_numeric_schema(
            "alcohol",
            "malic acid",
            "ash",
            "alcalinity of ash",
            "magnesium",
            "total phenols",
            "flavanoids",
            "nonflavanoid phenols",
            "proanthocyanins",
            "color intensity",
            "hue",
            "OD280/OD315 of diluted wines",
            "proline",
        ),
        source="Wine (Forina et al., 1988; UCI), as scikit-learn ships it",
        license="CC BY 4.0",
    )


def breast_cancer() -> Dataset:
    """569 breast tumors, malignant (0) or benign (1), by their cell nuclei (Street et al., 1993), from scikit-learn.

    Classes are in scikit-learn's order: the single logit of a binary net is for benign.
    """
    header, table_NF = _read_sklearn_csv(
        "breast_cancer.csv", "fed3eb72d0575ef6192293f5093c6e801b1476b577d0386bf4455504522172ed"
    )
    return Dataset(
        inputs=torch.from_numpy(table_NF[:, :-1].astype(np.float32)),
        targets=torch.from_numpy(table_NF[:, -1].astype(np.int64)),
        labels=tuple(header[2:]),
        input_schema=_numeric_schema(
            *(f"mean {name}" for name in _NUCLEUS_MEASURES),
            *(f"{name} error" for name in _NUCLEUS_MEASURES),
            *(f"worst {name}" for name in _NUCLEUS_MEASURES),
        ),
        source="Breast Cancer Wisconsin, diagnostic (Wolberg et al., 1995; UCI), as scikit-learn ships it",
        license="CC BY 4.0",
    )


def diabetes() -> Dataset:
    """442 diabetes patients and their progression after a year (Efron et al., 2004), unscaled, from scikit-learn."""
    inputs = read_package_file(
        "sklearn",
        "datasets/data/diabetes_data_raw.csv.gz",
        "7fc0ded571454b1982210d3bb43f0aca44eae01a0b8654a3b24022bdb6b38009",
        _INSTALL_COMMAND,
    )
    targets = read_package_file(
        "sklearn",
        "datasets/data/diabetes_target.csv.gz",
        "8e53f65eb811df43c206f3534bb3af0e5fed213bc37ed6ba36310157d6023803",
        _INSTALL_COMMAND,
    )
    return Dataset(
        inputs=torch.from_numpy(np.loadtxt(_decompress_lines(inputs), dtype=np.float32)),
        targets=torch.from_numpy(np.loadtxt(_decompress_lines(targets), dtype=np.float32)),
        labels=("disease progression",),
        # scikit-learn does not document which sex is 1 and which is 2, so that it stays a number.
        input_schema=_numeric_schema(
            "age (years)",
            "sex (1 or 2)",
            "body mass index",
            "average blood pressure",
            "total serum cholesterol",
            "low-density lipoproteins",
            "high-density lipoproteins",
            "total cholesterol / HDL",
            "log of serum triglycerides",
            "blood sugar",
        ),
        source="Diabetes (Efron, Hastie, Johnstone, Tibshirani, 2004), as scikit-learn ships it",
        license="none stated by its authors; scikit-learn distributes it under BSD-3-Clause",
    )


def autompg() -> Dataset:
    """392 cars of 1970-82 and their miles per gallon (Quinlan, 1993), from mlxtend.

    The car's name is left out: it is nearly unique to a row.
    """
    content = read_package_file(
        "mlxtend",
        "data/data/autompg.csv.gz",
        "deb41efe69faf7bcbae72a2e4f0eb1dfed9b2151171251ae64c67ed8da33eec3",
        _INSTALL_COMMAND,
    )
    name_column = 7
    table_NF = np.loadtxt(
        _decompress_lines(content), delimiter=",", usecols=[*range(name_column), name_column + 1], dtype=np.float32
    )
    # The file numbers origins from 1.
    table_NF[:, 6] -= 1
    return Dataset(
        inputs=torch.from_numpy(table_NF[:, :-1].copy()),
        targets=torch.from_numpy(table_NF[:, -1].copy()),
        labels=("miles per gallon",),
        input_schema=TableInput(
            features=(
                Feature(name="cylinders"),
                Feature(name="displacement (cubic inches)"),
                Feature(name="horsepower"),
                Feature(name="weight (pounds)"),
                Feature(name="acceleration (seconds to 60 mph)"),
                Feature(name="model year (19..)"),
                Feature(name="origin", categories=_ORIGINS),
            )
        ),
        source="Auto MPG (Quinlan, 1993; UCI), the 392 complete rows that mlxtend ships",
        license="CC BY 4.0",
    )


def _read_sklearn_csv(file: str, sha256: str) -> tuple[list[str], np.ndarray]:
    """Read scikit-learn's CSV format: a header of counts and class names, then float64 (N, F + 1), the class last."""
    header, *lines = (
        read_package_file("sklearn", f"datasets/data/{file}", sha256, _INSTALL_COMMAND).decode().splitlines()
    )
    return header.split(","), np.loadtxt(lines, delimiter=",")


def _decompress_lines(content: bytes) -> list[str]:
    return gzip.decompress(content).decode().splitlines()


def _numeric_schema(*names: str) -> TableInput:
    return TableInput(features=tuple(Feature(name=name) for name in names))
