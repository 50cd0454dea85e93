"""The recipe `entities`, tested on the last days of the month: other news, with other names."""

from training.recipe.spec import Data
from training.zoo.recipes.entities import recipe as entities

recipe = entities.model_copy(
    update={
        "name": "entities-last",
        "summary": "Finds persons, locations and organizations in Chinese newspaper text; tested on later news.",
        "data": Data(source="training.zoo.datasets.people_daily:people_daily", args={"split": "last"}),
    }
)
