"""The table of phrases that a professional reader stumbles over, and what to write instead."""

from typing import NamedTuple


class Phrase(NamedTuple):
    """A phrase as a count shows it, its plain replacement, and the pattern that finds it (default: the words)."""

    words: str
    instead: str
    pattern: str = ""


#: Patterns see one paragraph as one line in lower case, with single spaces between words. They begin at a word.
PHRASES = (
    # --- words of the glossary, and a job's life ---
    Phrase("whole road", "the full path, or end to end"),
    Phrase("wish", "request, or requested action", r"\bwish(?:es|ed|ing)?\b"),
    Phrase("keeper", "maintenance process", r"\bkeepers?\b"),
    Phrase("sweeper", "cleanup", r"\bsweepers?\b|\bsweeping\b|\bsweeps? this\b|\bswept\b"),
    Phrase("patience", "until the database is available", r"\bpatien(?:ce|tly)\b"),
    Phrase("arena", "attack runner"),
    Phrase("scene", "attack context", r"\bthe scene\b|\bscene's\b|\bof a scene\b"),
    Phrase("movable", "trainable"),
    Phrase("reference scores", "base scores"),
    Phrase("worked examples", "few-shot examples", r"\bworked examples?\b"),
    Phrase("chosen rows", "selected rows"),
    Phrase("takes back", "requeues, recovers or reverts", r"\bt(?:ake|akes|aken|ook|aking) (?:\w+ ){0,2}back\b"),
    Phrase("hands back", "returns, or requeues", r"\bhand(?:s|ed|ing)? (?:\w+ ){0,3}back\b"),
    Phrase(
        "asked to leave",
        "asked to stop (a worker drains, a process exits)",
        r"\basked to leave\b|\bworkers? (?:leaves|left|is leaving|must leave)\b"
        r"|\bleave with (?:the|its) (?:exit )?code\b",
    ),
    Phrase("fell silent", "stopped responding, or does not set", r"\b(?:fell|falls?|is|are) silent\b"),
    Phrase("is away", "is unavailable", r"\b(?:is|are|was|were) away\b(?! from)"),
    Phrase("however long", "state the limit, or: until it is available"),
    Phrase("last words", "last output"),
    Phrase("without a word", "without a message", r"(?<!answer )\bwithout a word\b"),
    Phrase("no longer ours", "the lease is lost"),
    Phrase("living worker", "running worker", r"\bliving (?:workers?|servers?|jobs?|process(?:es)?)\b"),
    Phrase("for good", "permanently", r"\bfor good\b(?! (?:measure|reasons?|results?|models?))"),
    Phrase("comes to nothing", "fails", r"\bc[ao]mes? to nothing\b"),
    Phrase("what came of it", "the result", r"\bc[ao]mes? of\b"),
    Phrase("comes out", "appears, results in, or: as measured", r"\bc[ao]mes? out\b(?! ahead)"),
    Phrase("to its end", "until it finishes", r"\bto (?:its|their) end\b|\bwait for its end\b"),
    Phrase("how far it is", "its progress", r"\bhow far (?:it|an? \w+|the \w+) is\b(?! from)"),
    Phrase("let go", "released", r"\blet (?:\w+ ){0,2}go\b"),
    Phrase("ends well", "succeeds (badly: fails)", r"\bends? (?:a run |when the block ends )?(?:well|badly)\b"),
    Phrase(
        "is over",
        "has finished",
        r"\b(?:jobs?|generation|that|it|run) (?:is|are|was) over\b(?= answers| left|[.,;:)]|$)",
    ),
    Phrase(
        "goes on",
        "resumes, or continues",
        r"\bgo(?:es|ing|ne)? on\b(?! (?:the|an?)\b)|\bwent on (?:past|from|by|with|until)\b",
    ),
    Phrase("anew", "again"),
    Phrase("from nothing", "from scratch"),
    Phrase("found again", "reused", r"\bfound again\b|\bfinds (?:it |them |everything )?again\b"),
    Phrase(
        "before anything is spent",
        "before the run starts (an attempt: counts as an attempt)",
        r"\bbefore anything is spent\b|\bno attempt spent\b|\bspend an (?:\w+ )?attempt\b|\bwritten or spent\b",
    ),
    Phrase("gone when", "removed when", r"\bgone (?:when|at the end|by now)\b|\bgoes when\b"),
    Phrase("at work", "running", r"\bis at work\b"),
    Phrase("death", "exit, or crash", r"\b(?:its|'s|nobody's) death\b"),
    Phrase(
        "forgets",
        "deletes, clears or loses",
        r"^forget (?:an?|the) (?:registration|registered|flag)\b|\bthen forget them\b"
        r"|\bbroker (?:may have )?forg[eo]t\w*|\bkernel forgets\b",
    ),
    # --- where things are ---
    Phrase("beside", "in addition to, with, or next to", r"\bbeside\b(?!`)"),
    Phrase(
        "behind",
        "after (also: of, or from which)",
        r"(?<!left )(?<!leave )(?<!leaves )(?<!lags )(?<!lagged )(?<!workers )(?<!server )(?<!is )\bbehind "
        r"(?=(?:an? |this (?:seq|event)|`|@|each |its |letter|chosen|the (?:training|last|layers?|same|answer|bound)|"
        r"prompt|spec|reference|them\b|it\b|that\b|h\b|step))(?!an? (?:proxy|firewall|load balancer|server|real))",
    ),
    Phrase(
        "is whole",
        "is complete",
        r"\b(?:is|are|was|were|only when|renamed when|is it|refused|rendered|made|a resource) whole\b(?! \w+s\b)|"
        r"\bwhole or no|\b(?:an?|no|newest) whole (?:checkpoint|upload|lease|bound|result)\b",
    ),
    Phrase(
        "stands",
        "is, or appears",
        r"\bstands? (?:at|in(?! for)|there|before|between|beside|after|around|twice|once|inside|together)\b"
        r"|\bwhere (?:it|they|\w+ \w+) stands?\b|\bwhat(?:ever)? stands\b",
    ),
    Phrase(
        "lies",
        "is stored, or is located",
        r"\bwhat lies\b|\bwhere(?:ver)? (?:it|they|files|each tensor|one tensor|a tensor will|tokens) lies?\b"
        r"|\b(?:files?|data|models?|folders?|checkpoints?|progress|nothing|result|sets?|texts?|questions|later|may|not)"
        r" lies? (?:at|in|there|about|below|under|elsewhere)\b|\bmay lie(?=[;,.])",
    ),
    Phrase("is not there", "does not exist, or is missing", r"\b(?:is|are|was|were) not there\b|^not there\b"),
    Phrase("at hand", "available"),
    Phrase("room", "space, or memory", r"\b(?:no|has|have|some|is there) room\b"),
    Phrase("laid end to end", "concatenated", r"\bla(?:y|id|ys|ying) (?:\w+ ){0,2}end to end\b"),
    Phrase("laid down", "stored once, or merged into", r"\blaid (?:down|over)\b"),
    Phrase("now and again", "periodically", r"\bnow and again\b|\bevery so often\b"),
    Phrase(
        "apart",
        "separately",
        r"\b(?:counted|shown|measured|reported|resampled|non-members|they do|packed as|membership) apart\b",
    ),
    # --- who and what ---
    Phrase("nobody", "no user, no process, or the passive", r"\bnobody(?:'s)?\b(?= [a-z])|(?<=\w )\bnobody\b"),
    Phrase(
        "somebody",
        "a user, a process: name the actor",
        r"(?<!-)\b(?:some|any|every)body(?:'s)?\b(?= \w)|(?<=\w )\b(?:some|any|every)body\b(?!/)",
    ),
    Phrase("whoever", "the user or process that", r"\bwho(?:so)?ever\b"),
    Phrase("stranger", "another tenant, or a new user", r"\bstrangers?\b"),
    Phrase("of ours", "our or SOUL's (your, their) before the noun", r"\bof (?:ours|yours|theirs)\b"),
    Phrase("one's own", "your own", r"\bone's own\b|\boneself\b"),
    Phrase("things", "problems, or resources", r"\bno such thing\b|\bthings (?:speak|in the request)\b"),
    Phrase("the very", "this exact", r"\bth(?:e|is|ese|at) very (?:file|tensor|weights|run|rows?|model|bytes)\b"),
    Phrase("to be had", "available", r"\bto be had\b"),
    Phrase("for people", "human-readable, or for display", r"\bfor (?:people|a person|programs)\b(?=[.,:;]|$)"),
    Phrase(
        "what must stay",
        "the retain set, or the forget set",
        r"\bwhat (?:must|is to|should) (?:stay|go)\b|\bdata that stays\b|\b(?:is|was|were|are) to go\b"
        r"|\bwhat (?:must|is to) be kept\b",
    ),
    # --- saying ---
    Phrase(
        "is no",
        "is not a",
        r"(?<!there )\b(?:is|are|was|were) no\b(?! (?:longer|more|less|fewer|better|worse|wider)\b)",
    ),
    Phrase("tells apart", "distinguishes", r"\bt(?:ell|ells|old|elling) (?:\w+ ){0,3}apart\b"),
    Phrase("told", "reported, known, or distinguished", r"\btold\b(?! to\b)(?! (?:\w+ ){0,3}apart\b)"),
    Phrase(
        "tells of",
        "reports, describes, or identifies",
        r"\btell(?:s|ing)? (?:of|how far|the world|nothing|best|whether)\b(?! (?:\w+ ){0,2}apart\b)"
        r"|\btells (?:it|them|which|more|hidden|members|right|what|where)\b"
        r"|\b(?:job|run|training|stream|spec alone|finished training) tells?\b",
    ),
    Phrase("says so", "states it, or reports it", r"\bsa(?:y|ys|id) so\b"),
    Phrase("say-so", "decision"),
    Phrase(
        "Say whether",
        "Return whether (or: Print, Describe)",
        r"^(?:say|tell) (?:whether|which|what|why|how|that|so|in)\b",
    ),
    Phrase("as X has it", "as X defines it, or as in X", r"\bas (?:[\w.'-]+ ){1,4}ha(?:s|ve) (?:it|them)\b"),
    Phrase("asked of", "requested from, or given to", r"\basked of\b"),
    Phrase("is said", "is stated, or is described", r"\bis said of\b|\bwhich is said\b"),
    Phrase("speaks against", "contradicts, or prevents", r"\bspeaks? against\b"),
    Phrase("speaks of", "describes, or refers to", r"\bspeaks of\b|\bhttp speaks\b"),
    Phrase("hears", "receives, or detects", r"\bhears\b|\bheard\b|\bhear (?:of|it)\b"),
    Phrase("those who wait", "the waiting clients", r"\bthose (?:who|that) (?:wait|watch|listen|read it)\b"),
    Phrase("in words", "with a message", r"\b(?:refused|error|say|told) in words\b"),
    Phrase("has no word for", "has no equivalent of", r"\bha(?:s|ve) (?:no )?words? for\b|\bword with the\b"),
    Phrase("says nothing of", "does not reveal, or states nothing about", r"\bsays? nothing of\b"),
    Phrase("a test holds", "a test checks that", r"\btests? holds?\b|\bhold (?:the \w+|it|them|both) equal\b"),
    Phrase("held to", "validated against", r"\bheld (?:to|against) (?:what|the|their|its)\b"),
    Phrase("as promised", "as listed in the manifest", r"\b(?:as|it|manifest|server|digest|index) promise[sd]\b"),
    Phrase("journey", "flow of a run", r"\bjourneys?\b"),
    Phrase("confesses", "documents", r"\bconfess(?:es|ed)?\b"),
    # --- numbers and conditions ---
    Phrase(
        "one value a step",
        "per (one value per step)",
        r"\b(?:tokens|rows|value|pass|nll|nats|process|bytes|operations|mean|seconds|event|object|plan|call|scale|result|"
        r"estimate|label|probes|questions|numbers|examples|text|file|line|command|folder|answer|task) an? "
        r"(?:token|row|step|set|line|language|segment|model|attack|table|weight|position|parameter|sequence|person|core|"
        r"column|commit|task|place)\b(?! (?:may|has|have|had|is|was|can|must|gives?|gave|wrote|writes|makes?|takes?|"
        r"holds?|stands|does|of|and)\b)",
    ),
    Phrase(
        "so many",
        "N, or the given number of",
        r"\b(?:at most|every|after|over) so many\b|\bso many (?:rows|tokens|of)\b",
    ),
    Phrase("most of a list", "maximum number of", r"^most (?:\w+ ){1,2}(?:of a|to|behind|per)\b"),
    Phrase("the most it may", "the maximum", r"\bthe most (?:it|that|they) (?:may|is|can)\b"),
    Phrase("to the bit", "bit-identical, exactly", r"\bto the (?:last )?(?:bit|digit)\b"),
    Phrase(
        "is taken on",
        "is computed on",
        r"\b(?:metrics?|criterion|verdict|maximum|recall|logs?|it) (?:is|are|was|were) taken "
        r"(?:on|of|under)\b",
    ),
    Phrase("rests on", "depends on, or is computed from", r"\brests? on\b"),
    Phrase("but for", "except for"),
    Phrase("for want of", "because there is not enough"),
    Phrase("manner", "format, or style", r"\bmanner\b"),
    Phrase(
        "wants", "requires, or expects", r"\b(?:constraint|spec|server|hub|adapters|architecture that|[\d.]+) wants?\b"
    ),
    Phrase("by heart", "memorized"),
    Phrase("gives away", "reveals, or leaks", r"\bg(?:ive|ives|ave|iven|iving) (?:\w+ ){0,2}away\b"),
    Phrase("wrongly pointed at", "flagged wrongly (a false positive)", r"\bwrongly point(?:s|ed)?\b"),
    Phrase("doubles", "duplicates", r"\bno doubles\b|\bdoubled (?:keys?|names?)\b|\bnot doubled\b"),
    Phrase(
        "a look",
        "a criteria check",
        r"\b(?:best|first|a|such a|no|new|two|all|the) looks?\b(?=[.,;:')]| (?:measures|costs|can|could|before|"
        r"at the criteria|that|finds|up to|with the least|of all))|\b(?:its|whose) looks\b(?= (?:see|before|are))",
    ),
    Phrase("rough sum", "estimate"),
    Phrase("thereof", "plain words", r"\b(?:thereof|whereof|wherein|whence|lest|whilst|amongst|hitherto)\b"),
)
