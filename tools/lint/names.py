"""Checks the names that Python code defines: the glossary's words, grammar, layers and spelling. Standard library only.

A new rule is one entry of a table below, or one function from a name to its problem in `RULES`.
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Literal

from tools.lint.definitions import Name, list_names
from tools.lint.finding import Finding, without_quotes

#: Folders whose Python files are checked.
ROOTS = ("api", "worker", "soul_core", "soul_cli", "soul_store", "migrations", "bench", "tests", "tools")

#: Word -> (where it is banned, what to use instead). "any": as a part of any identifier or file name, plural included;
#: "whole": as a whole identifier or file name; "class": as a whole class name.
BANNED: dict[str, tuple[Literal["any", "whole", "class"], str]] = {
    "wish": ("any", "requested_action, StopRequest or request"),
    "wished": ("any", "requested"),
    "road": ("any", "job, or path for a request's path"),
    "keeper": ("any", "maintenance"),
    "sweeper": ("any", "cleanup"),
    "sweep": ("any", "cleanup, clean_up"),
    "sweeping": ("any", "cleanup"),
    "patience": ("any", "retry, or lease"),
    "patiently": ("any", "run_when_database_available"),
    "take_back": ("any", "requeue"),
    "taken_back": ("any", "requeued (a job), or reverted"),
    "hand_back": ("any", "release"),
    "movable": ("any", "trainable"),
    "arena": ("any", "attack runner"),
    "scene": ("whole", "context (AttackContext)"),
    "telling": ("any", "progress (AttackProgress); distinctive for words"),
    "examined": ("any", "ModelEvaluation, evaluation"),
    "reference_scores": ("any", "base_scores"),
    "chosen_rows": ("any", "row_selection, selected_rows"),
    "worked_examples": ("any", "few_shot_examples"),
    "told": ("any", "reported, published or known"),
    "nobody": ("any", "no_user, no_process, or the passive"),
    "stranger": ("any", "other_tenant, or new_user"),
    "attacked": ("class", "AttackOutcome"),
    "blow": ("class", "a chart's own word: AttackEffect"),
    "checked": ("class", "ValidatedRequest"),
    "goal": ("class", "CriteriaCheck"),
    "loaded": ("class", "LoadedModel"),
    "look": ("class", "CriteriaCheck; ModelStyle in charts"),
    "measured": ("class", "ModelEvaluation"),
    "packed": ("class", "PackedBatch"),
    "plane": ("class", "a chart's own word: UtilityChart"),
    "record": ("class", "TrainingHistory, or what is recorded"),
    "refresh": ("class", "CurvatureSchedule"),
    "set_measured": ("class", "ModelEvaluation"),
    "subject": ("class", "ModelUnderTest"),
    "trained": ("class", "TrainingResult"),
    "unit": ("class", "BatchItem"),
    "view": ("class", "chart"),
}

#: Names of variables that say nothing about what they hold.
VAGUE_VARIABLES = frozenset({"one", "each", "found", "told", "kept"})
MAX_TEST_NAME = 80

_IRREGULAR = (
    "asked begun bought broken brought built caught chosen done drawn driven fallen forgotten found frozen given gone "
    "grown heard held hidden kept known lost made meant met said seen sent shown spent spoken struck taken taught "
    "thought thrown told torn understood written"
)
IRREGULAR_PARTICIPLES = frozenset(_IRREGULAR.split())
#: Words in "ed" that are not participles; words in "eed" (seed, need, succeed) never are.
NO_PARTICIPLES = frozenset({"bed", "embed", "hundred", "led", "naked", "red", "sacred", "shed", "sled"})

_ROUTE_VERBS = (
    "approve cancel check create delete download estimate evaluate get list pause preview put register render resume "
    "retry revoke search stream submit update upload validate wait"
)
ROUTE_VERBS = _ROUTE_VERBS.split()
HTTP_METHODS = frozenset({"get", "post", "put", "patch", "delete", "head", "options", "api_route"})
#: Folder -> function names its modules may not define, and what to use instead.
LAYER_NAMES: dict[str, dict[str, str]] = {
    "soul_store": {"page": "list", "add": "insert", "save": "insert or transition", "create": "insert"},
    "api/store": {"page": "list", "add": "insert", "save": "insert or transition", "create": "insert"},
    "api/services": {"page": "list"},
}

ISE_STEMS = (
    "author capital categor character custom digit emphas equal factor final formal general harmon ideal initial item "
    "local maxim memor minim modern modular neutral normal optim organ parallel parametr penal polar priorit quant "
    "random rational real recogn regular sanit scrutin serial special stabil standard summar symbol symmetr synchron "
    "token util vector visual"
).replace(" ", "|")
OUR_STEMS = "arm|behavi|col|endeav|fav|flav|harb|hon|hum|lab|neighb|od|rig|rum|savi|vap|vig"
#: A part of an identifier -> its American spelling. "cancelled" and "catalogue" are this project's words.
BRITISH: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(rf"^((?:de|pre|re|un)?(?:{ISE_STEMS}))is(?=(?:e|ed|es|er|ers|ing|ation|ations|able)$)"), r"\1iz"),
    (re.compile(r"^((?:psycho|re)?(?:anal|catal|paral))ys(?=(?:e|ed|es|er|ers|ing)$)"), r"\1yz"),
    (re.compile(rf"^((?:dis|mis|un)?(?:{OUR_STEMS}))our"), r"\1or"),
    (re.compile(r"^centre(?=d)"), "centere"),
    (re.compile(r"^centre"), "center"),
    (re.compile(r"^licence"), "license"),
    (re.compile(r"^(def|off|pret)ence"), r"\1ense"),
    (re.compile(r"^(label|model|signal|travel|channel)l(?=(?:ed|ing|er)$)"), r"\1"),
    (re.compile(r"^artefact"), "artifact"),
    (re.compile(r"^grey"), "gray"),
)


_BANNED_PARTS = re.compile(
    rf"(?:^|_)({'|'.join(word for word, (place, _) in BANNED.items() if place == 'any')})(?:e?s)?(?:_|$)"
)
#: Whether a part of an identifier has any British spelling: one search in place of ten.
_ANY_BRITISH = re.compile("|".join(pattern.pattern for pattern, _ in BRITISH))


def check_names(path: str, source: str) -> list[Finding]:
    """Return what the names of a Python file break, in the order of the lines."""
    tree = ast.parse(source, path)
    names = [Name(PurePosixPath(path).stem, 1, "file"), *list_names(tree)]
    findings = [Finding(path, name.line, rule, problem) for name in names for rule, problem in list_problems(name)]
    findings += check_layers(path, tree)
    return sorted(without_quotes(findings, source), key=lambda finding: finding.line)


def list_problems(name: Name) -> Iterator[tuple[str, str]]:
    """Yield (rule, problem with its remedy): the first that the tables know, and the length of a test's name."""
    for rule, find_problem in RULES.items():
        problem = find_problem(name)
        if problem:
            yield rule, problem
            break
    if name.kind == "function" and name.text.startswith("test_") and len(name.text) > MAX_TEST_NAME:
        yield "long test name", f"'{name.text}' has {len(name.text)} characters; at most {MAX_TEST_NAME}"


def find_banned_word(name: Name) -> str | None:
    """Return the problem of a word that the glossary bans; keys are the API's, and have rules of their own."""
    if name.kind == "key":
        return None
    snake = "_".join(name.parts)
    match = _BANNED_PARTS.search(snake)
    word = match.group(1) if match else snake
    place, instead = BANNED.get(word, ("class", ""))
    if not instead or (place == "class" and name.kind != "class"):
        return None
    return f"'{name.text}' has the word '{word}', which the glossary bans; use {instead}"


def find_participle(name: Name) -> str | None:
    """Return the problem of a class or a public function that is named by a past participle."""
    if not name.parts:
        return None
    if name.kind == "class" and is_participle(name.parts[-1]):
        return f"the class '{name.text}' is a past participle; use a noun (an exception ends in Error)"
    if name.kind != "function" or name.text.startswith("_"):
        return None
    is_passive = len(name.parts) == 1 or (len(name.parts) == 2 and name.parts[1] == "by")
    if is_passive and is_participle(name.parts[0]):
        return f"the function '{name.text}' is a past participle; use a verb (a boolean reads as a question: is_...)"
    return None


def is_participle(word: str) -> bool:
    """Return whether a lower-case word is a past participle."""
    if word in IRREGULAR_PARTICIPLES:
        return True
    return word.endswith("ed") and not word.endswith("eed") and word not in NO_PARTICIPLES


def find_vague_variable(name: Name) -> str | None:
    """Return the problem of a variable that names nothing, or of a limit that is called `most`."""
    if name.kind in ("argument", "variable") and name.text in VAGUE_VARIABLES:
        return f"the variable '{name.text}' does not say what it holds; name the thing"
    is_value = name.kind in ("argument", "variable", "field", "attribute")
    if is_value and re.match(r"_*(?:most|MOST)(?:_|$)", name.text):
        return f"'{name.text}' is a limit; use max_ or num_"
    return None


def find_british_spelling(name: Name) -> str | None:
    """Return the problem of a British spelling in an identifier or a key."""
    for part in name.parts:
        if not _ANY_BRITISH.search(part):
            continue
        for pattern, american in BRITISH:
            if pattern.search(part):
                return f"'{name.text}' has the British spelling '{part}'; use '{pattern.sub(american, part)}'"
    return None


RULES: dict[str, Callable[[Name], str | None]] = {
    "banned word": find_banned_word,
    "participle": find_participle,
    "vague variable": find_vague_variable,
    "British spelling": find_british_spelling,
}


def check_layers(path: str, tree: ast.Module) -> Iterator[Finding]:
    """Yield route functions that are not verb_noun, and store and service functions with a word of another layer."""
    folder = PurePosixPath(path).parent.as_posix()
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if folder == "api/routes" and is_route(node) and not is_verb_noun(node.name):
            message = f"the route '{node.name}' is not verb_noun (create_job, list_jobs); the verbs are in {__name__}"
            yield Finding(path, node.lineno, "layer verb", message)
        instead = LAYER_NAMES.get(folder, {}).get(node.name)
        if instead:
            message = f"'{node.name}' is not a verb of {folder}; use {instead}"
            yield Finding(path, node.lineno, "layer verb", message)


def is_route(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether a function is decorated with `@router.<method>(...)`."""
    calls = [decorator.func for decorator in function.decorator_list if isinstance(decorator, ast.Call)]
    return any(isinstance(call, ast.Attribute) and call.attr in HTTP_METHODS for call in calls)


def is_verb_noun(name: str) -> bool:
    """Return whether a name is a verb of the routes and a noun."""
    verb, _, noun = name.partition("_")
    return verb in ROUTE_VERBS and bool(noun)
