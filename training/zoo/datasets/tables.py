"""Small tables that textbooks use: iris, wine and breast cancer to classify, diabetes and auto MPG to regress.

Each function returns the raw values in their own units; what centres and scales them is a layer of the net.
"""
# Shapes: N rows, F features.

import gzip

import numpy as np
import torch

from training.data.dataset import Dataset
from training.schema import Feature, TableInput
from training.zoo.datasets.packaged import packaged

_BRING = "pip install 'shoal[data]'"

# Ten measures of the cell nuclei in a picture: their mean, standard error, and the mean of the three largest.
_NUCLEI = (
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
    head, table_NF = _labelled_csv("iris.csv", "f13ffa8fdd56fd8e6c8d16d4081a3fbd3114bcd0aae4256c43205169cd9d1449")
    return Dataset(
        inputs=torch.from_numpy(table_NF[:, :-1].astype(np.float32)),
        targets=torch.from_numpy(table_NF[:, -1].astype(np.int64)),
        labels=tuple(head[2:]),
        input_schema=_words("sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"),
        source="Iris (Fisher, 1936; UCI), as scikit-learn ships it",
        license="CC BY 4.0",
    )


def wine() -> Dataset:
    """178 wines of three growers in one region of Italy, by chemistry (Forina et al., 1988), from scikit-learn."""
    head, table_NF = _labelled_csv("wine_data.csv", "10e8a802908b34f86e5da8ce962f3c806694bc98450a18f61851af59f324bede")
    return Dataset(
        inputs=torch.from_numpy(table_NF[:, :-1].astype(np.float32)),
        targets=torch.from_numpy(table_NF[:, -1].astype(np.int64)),
        labels=tuple(head[2:]),
        input_schema=_words(
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
    """569 tumours of the breast, malignant (0) or benign (1), by their cell nuclei (Street et al., 1993).

    From scikit-learn, in its order of classes: the one logit of a binary net speaks for benign.
    """
    head, table_NF = _labelled_csv(
        "breast_cancer.csv", "fed3eb72d0575ef6192293f5093c6e801b1476b577d0386bf4455504522172ed"
    )
    return Dataset(
        inputs=torch.from_numpy(table_NF[:, :-1].astype(np.float32)),
        targets=torch.from_numpy(table_NF[:, -1].astype(np.int64)),
        labels=tuple(head[2:]),
        input_schema=_words(
            *(f"mean {name}" for name in _NUCLEI),
            *(f"{name} error" for name in _NUCLEI),
            *(f"worst {name}" for name in _NUCLEI),
        ),
        source="Breast Cancer Wisconsin, diagnostic (Wolberg et al., 1995; UCI), as scikit-learn ships it",
        license="CC BY 4.0",
    )


def diabetes() -> Dataset:
    """442 diabetes patients, how far the disease went in a year (Efron et al., 2004), unscaled, from scikit-learn."""
    rows = packaged(
        "sklearn",
        "datasets/data/diabetes_data_raw.csv.gz",
        "7fc0ded571454b1982210d3bb43f0aca44eae01a0b8654a3b24022bdb6b38009",
        _BRING,
    )
    targets = packaged(
        "sklearn",
        "datasets/data/diabetes_target.csv.gz",
        "8e53f65eb811df43c206f3534bb3af0e5fed213bc37ed6ba36310157d6023803",
        _BRING,
    )
    return Dataset(
        inputs=torch.from_numpy(np.loadtxt(_lines(rows), dtype=np.float32)),
        targets=torch.from_numpy(np.loadtxt(_lines(targets), dtype=np.float32)),
        labels=("disease progression",),
        # scikit-learn does not tell which sex is 1 and which is 2, so the code stays a number.
        input_schema=_words(
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
        license="none stated by its authors; scikit-learn passes it on under BSD-3-Clause",
    )


def autompg() -> Dataset:
    """392 cars of 1970-82 and the miles that they go on a gallon (Quinlan, 1993), from mlxtend.

    The car's name is left out: it is nearly one to a row.
    """
    raw = packaged(
        "mlxtend",
        "data/data/autompg.csv.gz",
        "deb41efe69faf7bcbae72a2e4f0eb1dfed9b2151171251ae64c67ed8da33eec3",
        _BRING,
    )
    name = 7
    table_NF = np.loadtxt(_lines(raw), delimiter=",", usecols=[*range(name), name + 1], dtype=np.float32)
    # The file numbers the origins from 1.
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


def _labelled_csv(file: str, sha256: str) -> tuple[list[str], np.ndarray]:
    """Read scikit-learn's form: a head of counts and class names, then float64 (N, F + 1), the class last."""
    head, *lines = packaged("sklearn", f"datasets/data/{file}", sha256, _BRING).decode().splitlines()
    return head.split(","), np.loadtxt(lines, delimiter=",")


def _lines(raw: bytes) -> list[str]:
    return gzip.decompress(raw).decode().splitlines()


def _words(*names: str) -> TableInput:
    return TableInput(features=tuple(Feature(name=name) for name in names))
