"""Answers questions from a checkpoint with transformers alone. Run as a script, it imports no module of SOUL.

python plain_answers.py FOLDER < questions.json > answers.json
"""

import json
import sys


def main(folder: str) -> None:
    """Read a JSON list of questions from stdin; write the greedy answers, and imported SOUL packages, to stdout."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answers = []
    for question in json.load(sys.stdin):
        if tokenizer.chat_template:
            chat = [{"role": "user", "content": question}]
            text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        else:
            inputs = tokenizer(question, return_tensors="pt")
        tokens = model.generate(**inputs, max_new_tokens=24, do_sample=False)
        answers.append(tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    soul_packages = {"soul_core", "soul_cli", "soul_store", "api", "worker"}
    imported = sorted({name.split(".")[0] for name in sys.modules} & soul_packages)
    json.dump({"answers": answers, "soul_packages": imported}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
