"""The same as entities, judged on the last days of the month: other news, with other names."""

from training.recipe.spec import Data
from training.zoo.datasets.people_daily import people_daily
from training.zoo.recipes.entities import recipe as entities

recipe = entities.model_copy(
    update={
        "name": "entities-last",
        "summary": "Finds persons, places and organisations in Chinese newspaper text; judged on later news.",
        "data": Data(source=people_daily, args={"split": "last"}),
    }
)
