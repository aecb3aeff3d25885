"""What the answers of training alone would score on the sets that a comparison's runs are judged on."""

from collections.abc import Mapping

from adaptive_ft.comparing.recipe import Recipe
from adaptive_ft.data.reading.choice import all_questions, open_set
from adaptive_ft.errors import UserError
from adaptive_ft.tasks.answer_priors import answer_priors


def prior_scores(recipe: Recipe) -> Mapping[str, float]:
    """The mean soft score on each validation set, by name, of the best answer of each type of question in training.

    Nothing where rows train on different shards, where all questions are of one type, as those for a picture's class,
    and where the shards are not there any more.
    """
    data = next(iter(recipe.rows.values())).data
    if any(row.data.train != data.train for row in recipe.rows.values()):
        return {}
    try:
        priors = answer_priors(all_questions(open_set(data.train, data)))
        sets = {name: all_questions(open_set(address, data)) for name, address in recipe.validation.items()}
    except UserError:
        return {}
    return {name: priors.score(questions) for name, questions in sets.items()} if len(priors.by_type) > 1 else {}
