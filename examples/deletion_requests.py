"""Deletion requests one after another: a queue, more requests later, and one chain of certificates over all.

    python examples/deletion_requests.py                                 a tiny model: about a minute
    python examples/deletion_requests.py --model ./my-model              a model of yours, which is taught first

The model is taught some fictitious authors first. Each of them then asks to be forgotten; one asks twice.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import remanent
from remanent.auditing.signing import generate_key
from remanent.data.authors import author_sets
from remanent.data.jsonl import write_records
from remanent.data.record import Record
from remanent.jobs.config import TeachSettings
from remanent.jobs.teach import teach
from remanent.models.save import save
from remanent.models.tiny import tiny

AUTHORS = author_sets(forget=5, retain=12, control=16, questions=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder or a name; default: a tiny model made on the spot")
    parser.add_argument("--out", type=Path, default=Path("runs/deletion_requests"), help="a new folder")
    arguments = parser.parse_args()
    out: Path = arguments.out
    taught, rate = teach_model(arguments.model, out)
    generate_key(out / "signer.key", out / "signer.pub")
    requests = queue()
    settings = {"retain": list(AUTHORS.retain), "control": list(AUTHORS.control), "out": out / "run"}
    settings |= {"method": "fit", "hyperparameters": {"calibrate": True, "layers": 1}, "stop": False}
    settings |= {"learning_rate": rate, "epochs": 6, "curve_every": 2, "curve_generate": 0}
    settings |= {"audit_every": 2, "audit_at": "full"}

    first = dict(list(requests.items())[:4])
    run = remanent.unlearn(taught, requests=first, **settings)  # four requests came
    run = remanent.unlearn(taught, requests=requests, **settings)  # and two more, later: the same folder goes on
    certificate = remanent.certify(run, out / "signer.key", chain=True)
    found = remanent.verify(certificate, model=run / "model", key=out / "signer.pub", chain=True)

    for line in (run / "requests.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        print(f"{row['request']}: {row['steps']} steps" + (", redundant" if row["planned_steps"] == 0 else ""))
    for row in json.loads((run / "curve.json").read_text(encoding="utf-8"))["rows"]:
        degrees = f"forget degree {row['forget_degree']:.2f}, retain utility {row['retain_utility']:.2f}"
        print(f"after {row['requests']}: {degrees}")
    print(f"chain of {len(found.chain or ()) + 1}, {'good' if found.ok else 'not good'}, verdict {found.verdict}")


def queue() -> dict[str, list[Record]]:
    """A request for each author, and the first one's again."""
    people = list(dict.fromkeys(record.group for record in AUTHORS.forget))
    requests = {
        f"request-{place}": [record for record in AUTHORS.forget if record.group == person]
        for place, person in enumerate(people, start=1)
    }
    again = [replace(record, key=f"again/{record.key}") for record in requests["request-1"]]
    return {**requests, "request-1-again": again}


def teach_model(name: str | None, out: Path) -> tuple[Path, float]:
    """A model that knows what it will be asked to forget, and a learning rate that suits its size."""
    taught = [*AUTHORS.forget, *AUTHORS.retain]
    write_records(out / "taught.jsonl", taught)
    lesson, rate = {"epochs": 10}, 3e-5
    if name is None:
        made = tiny([*taught, *AUTHORS.control])
        name = str(save(made.model, made.tokenizer, out / "random"))
        lesson, rate = {"epochs": 40, "learning_rate": 3e-3}, 1e-3
    settings = TeachSettings(model=name, records=str(out / "taught.jsonl"), **lesson)
    return teach(settings, out / "taught").model, rate


if __name__ == "__main__":
    main()
