"""The models of paramd in PyTorch, put together from the layers that `paramctl config show --expand` prints.

Written from the formulas (docs/models.md), not from paramd's code: what it is compared with. Parameters are a dict by name,
as `paramctl export` names them: dense ones by "LAYER.PART", rows as "TABLE.w" and "TABLE.v", tensors [rows][...].
"""
import json
import struct
import subprocess
import sys
import os


def find_torch():
    """Goes on in a Python that has PyTorch, or returns a reason why there is none."""
    try:
        import torch  # noqa: F401
        return None
    except ImportError:
        pass
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if os.environ.get("TORCH_TRIED"):
        return "PyTorch is not installed (deploy/install-deps.sh torch; or TORCH_PYTHON=python)"
    for python in (os.environ.get("TORCH_PYTHON"), os.path.join(root, "build", "torch", "bin", "python"), "/usr/bin/python3"):
        if python and os.path.exists(python) and subprocess.run(
                [python, "-c", "import torch"], stderr=subprocess.DEVNULL).returncode == 0:
            os.execve(python, [python] + sys.argv, dict(os.environ, TORCH_TRIED="1"))
    return "PyTorch is not installed (deploy/install-deps.sh torch; or TORCH_PYTHON=python)"


def parse_flow(text):
    """A map, list or scalar in YAML's flow style, as far as `config show` writes it."""
    def value(i):
        if text[i] == "{":
            result, i = {}, i + 1
            while text[i] != "}":
                end = text.index(":", i)
                name, (result_value, i) = text[i:end].strip(" ,"), value(end + 2)
                result[name] = result_value
            return result, i + 1
        if text[i] == "[":
            result, i = [], i + 1
            while text[i] != "]":
                if text[i] in ", ":
                    i += 1
                    continue
                item, i = value(i)
                result.append(item)
            return result, i + 1
        end = i
        while end < len(text) and text[end] not in ",]}":
            end += 1
        word = text[i:end].strip().strip("\"'")
        for kind in (int, float):
            try:
                return kind(word), end
            except ValueError:
                pass
        return {"true": True, "false": False}.get(word, word), end
    return value(0)[0]


def parse_layers(expanded):
    return [parse_flow(line.strip()[2:]) for line in expanded.splitlines() if line.startswith("    - {")]


def read_safetensors(path):
    """-> {name: (shape, bytes, dtype)}"""
    with open(path, "rb") as f:
        size, = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(size))
        data = f.read()
    return {name: (t["shape"], data[t["data_offsets"][0]:t["data_offsets"][1]], t["dtype"])
            for name, t in header.items() if name != "__metadata__"}


def activate(torch, name, x):
    return {"none": lambda y: y, "relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}[name](x)


class Batch:
    """dense: [n][d] or None. slots: [(table, field, [(ids, values)])] with ids and values [n][k]; a value 0 is no term."""

    def __init__(self, dense, slots, labels):
        self.dense, self.slots, self.labels = dense, slots, labels


class Model:
    def __init__(self, torch, layers, dim):
        self.torch, self.layers, self.dim = torch, layers, dim

    def pooled(self, p, batch):
        """[(feature, [n][dim])] of every slot."""
        return [(s["name"], (p[s["table"] + ".v"][s["ids"]] * s["values"].unsqueeze(2)).sum(1)) for s in batch.slots]

    def linear_terms(self, p, batch):
        total = p["bias"]
        for s in batch.slots:
            total = total + (p[s["table"] + ".w"][s["ids"]].squeeze(2) * s["values"]).sum(1)
        return total.unsqueeze(1)

    def terms(self, p, batch, pairs):
        torch, y = self.torch, self.linear_terms(p, batch)
        if pairs == "none":
            return y
        fields = len(batch.slots)
        vectors, of_field = [], []
        for f, s in enumerate(batch.slots):
            v = p[s["table"] + ".v"][s["ids"]] * s["values"].unsqueeze(2)  # [n][k][...]
            vectors.append(v.reshape(v.shape[0], v.shape[1], -1, self.dim))
            of_field += [f] * v.shape[1]
        v = torch.cat(vectors, 1)  # [n][terms][1 or fields][dim]
        for i in range(v.shape[1]):
            for j in range(i):
                a, b = (of_field[j], of_field[i]) if pairs == "ffm" else (0, 0)
                y = y + (v[:, i, a] * v[:, j, b]).sum(1, keepdim=True)
        assert pairs != "ffm" or v.shape[2] == fields
        return y

    def norm(self, p, name, x):
        mean = x.mean(1, keepdim=True)
        variance = ((x - mean) ** 2).mean(1, keepdim=True)
        return (x - mean) / self.torch.sqrt(variance + 1e-5) * p[name + ".gain"] + p[name + ".bias"]

    def mlp(self, p, layer, x):
        for i in range(len(layer["hidden"])):
            name = f"{layer['name']}{i}"
            x = x @ p[name + ".weight"] + p[name + ".bias"]
            if layer["layer_norm"]:
                x = self.norm(p, name + ".norm", x)
            x = activate(self.torch, layer["activation"], x)
            if layer["dropout"] > 0:
                x = self.torch.nn.functional.dropout(x, layer["dropout"])
        return x

    def cross(self, p, layer, x0):
        x = x0
        for i in range(layer["layers"]):
            name = f"{layer['name']}{i}"
            t = x @ p[name + ".v"] @ p[name + ".u"] if layer["low_rank"] else x @ p[name + ".weight"]
            x = x0 * (t + p[name + ".bias"]) + x
        return x

    def dot(self, vectors):
        z = self.torch.stack(vectors, 1)
        products = self.torch.bmm(z, z.transpose(1, 2))
        i, j = self.torch.tril_indices(len(vectors), len(vectors), -1)
        return products[:, i, j]

    def fm(self, vectors):
        z = self.torch.stack(vectors, 1)
        return 0.5 * (z.sum(1) ** 2 - (z ** 2).sum(1)).sum(1, keepdim=True)

    def input_of(self, name):
        """What embeddings(PATTERN) is, for whoever knows names of features."""
        return None

    def forward(self, p, batch):
        """-> logits [n][outputs]"""
        torch, values = self.torch, {}
        names = " ".join(n for layer in self.layers for n in layer["in"])
        if "embeddings" in names:
            values["embeddings"] = [v for _, v in self.pooled(p, batch)]
        if "wide" in names:
            values["wide"] = [self.linear_terms(p, batch)]
        if "dense" in names:
            values["dense"] = [batch.dense]
        for layer in self.layers:
            parts = [v for name in layer["in"] for v in self.input_of(name) or values[name]]
            x = torch.cat(parts, 1) if parts else None
            kind = layer["type"]
            if kind == "linear":
                name = layer["name"]
                y = activate(torch, layer["activation"], x @ p[name + ".weight"] + p[name + ".bias"])
            elif kind == "mlp":
                y = self.mlp(p, layer, x)
            elif kind == "cross":
                y = self.cross(p, layer, x)
            elif kind in ("fm", "dot"):
                y = getattr(self, kind)(parts)
            elif kind == "sum":
                y = sum(parts)
            elif kind == "concat":
                y = x
            elif kind == "norm":
                y = self.norm(p, layer["name"], x)
            elif kind == "activation":
                y = activate(torch, layer["activation"], x)
            elif kind == "terms":
                y = self.terms(p, batch, layer["pairs"])
            else:
                raise ValueError(kind)
            values[layer["name"]] = [y]
        return y
