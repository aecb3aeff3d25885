"""What the answers of training alone would score on the sets that a comparison's runs are judged on."""

from collections.abc import Mapping

from adaptive_ft.comparing.recipe import Recipe
from adaptive_ft.data.reading.choice import all_questions, open_set, open_train
from adaptive_ft.tasks.answer_priors import answer_priors


def prior_scores(recipe: Recipe) -> Mapping[str, float]:
    """The mean soft score on each validation set, by name, of the best answer of each type of question in training.

    Nothing where rows train on different shards, and where all questions are of one type, as those for a picture's
    class.

    Raises:
        UserError: shards that are not there any more, or damaged.
    """
    data = next(iter(recipe.rows.values())).data
    if any(row.data.train != data.train for row in recipe.rows.values()):
        return {}
    priors = answer_priors(all_questions(open_train(data)))
    if len(priors.by_type) < 2:
        return {}
    sets = {name: all_questions(open_set(address, data)) for name, address in recipe.validation.items()}
    return {name: priors.score(questions) for name, questions in sets.items()}
