"""A deletion request from end to end in five lines: unlearn, audit, certify, verify.

    python examples/unlearn_and_audit.py                                 a tiny model: seconds
    python examples/unlearn_and_audit.py --model smollm2-135m            a real one: many minutes

The model is taught some fictitious authors first, so that it has something to forget. What is found is signed, whatever
it is: of the tiny model, which has learnt nothing but these authors, the records that it did not train on again go with
those that it forgets, and the audit says so.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import remanent
from remanent.auditing.signing import generate_key
from remanent.data.authors import author_sets
from remanent.data.jsonl import write_records
from remanent.jobs.config import TeachSettings
from remanent.jobs.teach import teach
from remanent.models.save import save
from remanent.models.tiny import tiny


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder or a name; default: a tiny model made on the spot")
    parser.add_argument("--out", type=Path, default=Path("runs/unlearn_and_audit"), help="a new folder")
    parser.add_argument("--at", default="full,int8,int4-row,nf4", help="conditions of the audit")
    arguments = parser.parse_args()
    out: Path = arguments.out
    files, key, public = prepare(out)
    taught, rate = teach_model(arguments.model, out)
    records = {role: files[role] for role in ("forget", "retain", "control")}

    run = remanent.unlearn(taught, **records, out=out / "run", steps=100, learning_rate=rate, batch_size=8)  # 1
    judgement = remanent.audit(run / "model", reference=taught, **records, out=run, at=arguments.at)  # 2
    certificate = remanent.certify(run, key)  # 3: what was found is signed, PASSED or not
    found = remanent.verify(certificate, model=run / "model", key=public)  # 4
    print(f"certificate {'good' if found.ok else 'not good'}, verdict {found.verdict}")  # 5

    for line in judgement.lines:
        if line.verdict != "PASSED":
            print(f"{line.verdict}: {line.name} {line.condition}: {line.reason}")


def prepare(out: Path) -> tuple[dict[str, Path], Path, Path]:
    """Records as files and a key pair, as a user has them."""
    authors = author_sets(forget=12, retain=12, control=16, questions=2)
    sets = {"forget": authors.forget, "retain": authors.retain, "control": authors.control}
    sets["taught"] = (*authors.forget, *authors.retain)
    files = {name: out / "data" / f"{name}.jsonl" for name in sets}
    for name, records in sets.items():
        write_records(files[name], records)
    generate_key(out / "signer.key", out / "signer.pub")
    return files, out / "signer.key", out / "signer.pub"


def teach_model(name: str | None, out: Path) -> tuple[Path, float]:
    """A model that knows what it must forget, and a learning rate that suits its size."""
    if name is None:
        authors = author_sets(forget=12, retain=12, control=16, questions=2)
        made = tiny([*authors.forget, *authors.retain, *authors.control])
        name = str(save(made.model, made.tokenizer, out / "random"))
        lesson = {"epochs": 40, "learning_rate": 3e-3}
        rate = 3e-3
    else:
        lesson, rate = {"epochs": 10}, 1e-4
    settings = TeachSettings(model=name, records=str(out / "data" / "taught.jsonl"), **lesson)
    return teach(settings, out / "taught").model, rate


if __name__ == "__main__":
    main()
