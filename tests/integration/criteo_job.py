"""The shipped Criteo job, conf/criteo-fm.yaml, for tests that have its data and checkpoints somewhere else.

    job = CriteoJob(place, cases)
    store.put_tree(job.local, "/data")
    run_job(job.arguments(store.uri("/data"), store.uri("/runs")), place.path)     # … has the digest job.reference()

The data are those of ../shared/data where they are, else made up in the same format.
"""
import os
import random

from harness import ROOT, SHARED, run_job

CLUSTER = ["--servers", "2", "--workers", "2"]
EPOCHS = 4
EVERY = 10      # steps between checkpoints
FILES = ("train.tsv.gz", "test.tsv.gz")


def criteo_tsv(rows, seed=1):
    """Criteo's format: label, 13 integers, 26 categories of which some are missing; the label depends on a few of them."""
    r = random.Random(seed)
    lines = []
    for _ in range(rows):
        numbers = [r.randrange(int(4 ** (1 + i % 5))) for i in range(13)]
        values = [int(r.random() ** 2 * 30 * (i + 1)) for i in range(26)]
        score = (values[0] * 7919 % 11 - 5) * 0.3 + (values[3] * 104729 % 7 - 3) * 0.4 + (numbers[2] - 30) * 0.02
        fields = [str(int(r.random() < 1 / (1 + 2.718281828 ** -score)))]
        fields += [str(n) if r.random() < 0.9 else "" for n in numbers]
        fields += [f"{v * 2654435761 % 2**32:08x}" if r.random() < 0.95 else "" for v in values]
        lines.append("\t".join(fields))
    return "\n".join(lines) + "\n"


class CriteoJob:
    def __init__(self, place, cases):
        self.place, self.cases, self.name = place, cases, "criteo-fm"
        self.file = os.path.join(ROOT, "conf", "criteo-fm.yaml")
        self.local = os.path.join(SHARED, "criteo")
        if not all(os.path.exists(os.path.join(self.local, name)) for name in FILES):
            self.local = os.path.join(place.path, "criteo")
            place.file("criteo/train.tsv.gz", criteo_tsv(64000))
            place.file("criteo/test.tsv.gz", criteo_tsv(8000, seed=2))
        self.references = {}

    def data(self, where):
        return ["--var", f"data={where}"]

    def settings(self, where, checkpoints, epochs=EPOCHS, every=EVERY):
        """All but how it begins and on what cluster. The digest is one of two ranks, whatever the cluster."""
        return ["-f", self.file, *self.data(where), "--set", "train.ranks=2", "--set", f"train.epochs={epochs}", "--set",
                f"checkpoint.every_steps={every}", "--set", f"checkpoint.uri={checkpoints}"]

    def arguments(self, where, checkpoints, epochs=EPOCHS, every=EVERY, more=()):
        return [*self.settings(where, checkpoints, epochs, every), "--fresh", *CLUSTER, *more]

    def on_local_files(self, epochs=EPOCHS):
        """The result of a run on local files, made once."""
        if epochs not in self.references:
            result = run_job(self.arguments(self.local, "file:local", epochs), self.place.path, timeout=300)
            self.cases.check(f"reference of {epochs} epochs, on local files", result["state"] == "DONE", result)
            self.references[epochs] = result
        return self.references[epochs]

    def reference(self, epochs=EPOCHS):
        return self.on_local_files(epochs).get("digest", "none")
