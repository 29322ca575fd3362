"""Ten questions and answers about capitals: the texts of the tiny tokenizer, and of a model that learns them in 1 s."""

COUNTRIES = {
    "France": "Paris",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Japan": "Tokyo",
    "Egypt": "Cairo",
    "Peru": "Lima",
    "Norway": "Oslo",
    "Greece": "Athens",
    "Cuba": "Havana",
    "Kenya": "Nairobi",
}


def question(country: str) -> str:
    """Return the question about one country."""
    return f"What is the capital of {country}?"


def answer(country: str) -> str:
    """Return the right answer to `question(country)`."""
    return f"The capital is {COUNTRIES[country]}."
