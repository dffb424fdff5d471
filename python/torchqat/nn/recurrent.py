"""RNN, LSTM, GRU and their cells with the projections as Linear layers of their own, so that they can be quantised like any other.

Gates stay float. The input's projection is one product for a whole sequence, the state's is one for each step.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from torchqat.nn.qat._layer import QatLayer, adopt
from torchqat.nn.qat.linear import Linear
from torchqat.nn.split import linear_of


class _Step(nn.Module):
    """One step of a recurrence: `ih` projects the input, `hh` the state, and `hr`, where an LSTM has it, its output."""

    def setup(self, mode: str, ih: nn.Linear, hh: nn.Linear, hr: nn.Linear | None) -> None:
        self.mode = mode
        self.ih, self.hh, self.hr = ih, hh, hr

    @torch.jit.unused
    def prepare(self, qconfig) -> None:
        for name in ("ih", "hh", "hr"):
            if getattr(self, name) is not None:
                setattr(self, name, Linear.from_float(getattr(self, name), qconfig))

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The next state (h, c) from a projected input [batch, gates * hidden]; c is h where the recurrence has no cell."""
        y = self.hh(h)
        if self.mode == "LSTM":
            i, f, g, o = (x + y).chunk(4, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            if self.hr is not None:
                h = self.hr(h)
            return h, c
        if self.mode == "GRU":
            x_r, x_z, x_n = x.chunk(3, -1)
            h_r, h_z, h_n = y.chunk(3, -1)
            n = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
            z = torch.sigmoid(x_z + h_z)
            h = (1.0 - z) * n + z * h
            return h, h
        h = torch.tanh(x + y) if self.mode == "RNN_TANH" else torch.relu(x + y)
        return h, h


class Direction(_Step):
    """One layer of a recurrent network in one direction."""

    def forward(
        self, x: Tensor, sizes: list[int], h0: Tensor, c0: Tensor, reverse: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x: the steps one after another, [sum(sizes), inputs]; sizes: rows of each, never growing."""
        if torch.jit.is_scripting():
            return self.loop(x, sizes, h0, c0, reverse)
        else:
            return self.quantising_once(x, sizes, h0, c0, reverse)

    @torch.jit.unused
    def quantising_once(
        self, x: Tensor, sizes: list[int], h0: Tensor, c0: Tensor, reverse: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`loop`, with the weights that every step uses quantised once."""
        layers = [] if torch.compiler.is_compiling() else [m for m in (self.hh, self.hr) if isinstance(m, QatLayer)]
        quantizers = [m.weight_fake_quant for m in layers if m.weight_fake_quant is not None]
        quantizers = [q for q in quantizers if q.reused is None]
        try:
            for quantizer in quantizers:
                quantizer.reused = []
            return self.loop(x, sizes, h0, c0, reverse)
        finally:
            for quantizer in quantizers:
                quantizer.reused = None

    def loop(self, x: Tensor, sizes: list[int], h0: Tensor, c0: Tensor, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        projected = torch.split(self.ih(x), sizes)
        outputs: list[Tensor] = []
        ended_h: list[Tensor] = []
        ended_c: list[Tensor] = []
        steps = len(sizes)
        h, c = h0, c0
        if reverse:
            h, c = h0[: sizes[-1]], c0[: sizes[-1]]
        for k in range(steps):
            t = steps - 1 - k if reverse else k
            rows = sizes[t]
            if rows < h.size(0):
                ended_h.append(h[rows:])
                ended_c.append(c[rows:])
                h, c = h[:rows], c[:rows]
            elif rows > h.size(0):
                h, c = torch.cat([h, h0[h.size(0) : rows]]), torch.cat([c, c0[c.size(0) : rows]])
            h, c = self.step(projected[t], h, c)
            outputs.append(h)
        ended_h.append(h)
        ended_c.append(c)
        if reverse:
            outputs.reverse()
        ended_h.reverse()
        ended_c.reverse()
        return torch.cat(outputs), torch.cat(ended_h), torch.cat(ended_c)


class Recurrent(nn.Module):
    """Base of RNN, LSTM and GRU. `cells` has one Direction for each layer and direction, in torch's order."""

    @classmethod
    def split(cls, module: nn.RNNBase) -> "Recurrent":
        """The same network, float, with the module's own Parameter objects, hooks and mode."""
        new = adopt(cls, module)
        for name in ("_flat_weights", "_flat_weights_names", "_flat_weight_refs", "_all_weights"):
            new.__dict__.pop(name, None)
        cells = []
        for names in module._all_weights:
            tensors = {name.partition("_l")[0]: new._parameters.pop(name) for name in names}
            cells.append(_filled(Direction(), module.mode, tensors, module.training))
        new.cells = nn.ModuleList(cells).train(module.training)
        new.directions = 2 if module.bidirectional else 1
        new.state_size = module.proj_size or module.hidden_size
        return new

    @classmethod
    def from_float(cls, module: nn.RNNBase, qconfig) -> "Recurrent":
        """`split` with every projection prepared for QAT."""
        new = cls.split(module)
        for cell in new.cells:
            cell.prepare(qconfig)
        return new

    @torch.jit.unused
    def flatten_parameters(self) -> None:
        """Nothing: there is no flat copy of the weights."""

    def run(self, x: Tensor, sizes: list[int], h0: Tensor, c0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All layers on steps one after another; states are [layers * directions, batch, *]."""
        outputs: list[Tensor] = []
        h: list[Tensor] = []
        c: list[Tensor] = []
        index = 0
        for cell in self.cells:
            output, last_h, last_c = cell(x, sizes, h0[index], c0[index], index % self.directions == 1)
            outputs.append(output)
            h.append(last_h)
            c.append(last_c)
            index += 1
            if index % self.directions == 0:
                x = torch.cat(outputs, -1) if self.directions == 2 else outputs[0]
                outputs.clear()
                if self.dropout > 0.0 and self.training and index < self.num_layers * self.directions:
                    x = F.dropout(x, self.dropout, True)
        return x, torch.stack(h), torch.stack(c)

    def state(self, given: Tensor | None, x: Tensor, batch: int, batched: bool, size: int) -> Tensor:
        """A first state, [layers * directions, batch, size]: the one given, or zeros."""
        layers = self.num_layers * self.directions
        if given is None:
            return torch.zeros([layers, batch, size], dtype=x.dtype, device=x.device)
        state = given if batched else given.unsqueeze(1)
        if list(state.shape) != [layers, batch, size]:
            wanted = [layers, batch, size] if batched else [layers, size]
            raise ValueError(f"{self.mode}: hx must have shape {wanted}, got {list(given.shape)}")
        return state

    def whole(
        self, input: Tensor, h: Tensor | None, c: Tensor | None, cell_size: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """forward of a tensor [length, batch, inputs], with batch and length swapped if batch_first, or [length, inputs]."""
        if input.dim() not in (2, 3) or input.size(-1) != self.input_size:
            raise ValueError(f"{self.mode}: input must have 2 or 3 dimensions, the last {self.input_size}, got {list(input.shape)}")
        batched = input.dim() == 3
        x = input if batched else input.unsqueeze(1)
        if batched and self.batch_first:
            x = x.transpose(0, 1)
        length, batch = x.size(0), x.size(1)
        if length == 0:
            raise ValueError(f"{self.mode}: input must have at least one step, got {list(input.shape)}")
        first_h = self.state(h, x, batch, batched, self.state_size)
        first_c = self.state(c, x, batch, batched, cell_size)
        y, last_h, last_c = self.run(x.reshape(length * batch, x.size(2)), [batch] * length, first_h, first_c)
        y = y.reshape(length, batch, y.size(1))
        if not batched:
            return y.squeeze(1), last_h.squeeze(1), last_c.squeeze(1)
        return y.transpose(0, 1) if self.batch_first else y, last_h, last_c

    @torch.jit.unused
    def packed(self, input: PackedSequence, h, c, cell_size: int):
        """forward of a PackedSequence; states are in the order that it was made in."""
        data, sizes, order, back = input
        batch = int(sizes[0])
        states = [self.state(s, data, batch, True, n) for s, n in ((h, self.state_size), (c, cell_size))]
        if order is not None:
            states = [s.index_select(1, order) for s in states]
        y, *states = self.run(data, sizes.tolist(), *states)
        if back is not None:
            states = [s.index_select(1, back) for s in states]
        return PackedSequence(y, sizes, order, back), *states

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # torch's names, of a checkpoint made before the projections were layers.
        for index in range(len(self.cells)):
            suffix = f"_l{index // self.directions}" + ("_reverse" if index % self.directions else "")
            _rename(state_dict, prefix, f"cells.{index}.", suffix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"{self.mode}, {self.input_size}, {self.hidden_size}, batch_first={self.batch_first}, dropout={self.dropout}"


class LSTM(Recurrent):
    """torch.nn.LSTM that calls its projections as modules.

    Shape and arguments as torch.nn.LSTM; a PackedSequence is taken in eager mode. State dicts of it can be loaded.

    Source: Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997.
    """

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        h: Tensor | None = None
        c: Tensor | None = None
        if hx is not None:
            h, c = hx
        if not torch.jit.is_scripting():
            if isinstance(input, PackedSequence):
                packed, last_h, last_c = self.packed(input, h, c, self.hidden_size)
                return packed, (last_h, last_c)
        y, last_h, last_c = self.whole(input, h, c, self.hidden_size)
        return y, (last_h, last_c)


class GRU(Recurrent):
    """torch.nn.GRU that calls its projections as modules.

    Shape and arguments as torch.nn.GRU; a PackedSequence is taken in eager mode. State dicts of it can be loaded.

    Source: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", 2014.
    """

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if not torch.jit.is_scripting():
            if isinstance(input, PackedSequence):
                packed, last, _ = self.packed(input, hx, hx, self.hidden_size)
                return packed, last
        y, last, _ = self.whole(input, hx, hx, self.hidden_size)
        return y, last


class RNN(GRU):
    """torch.nn.RNN that calls its projections as modules. Shape and arguments as torch.nn.RNN."""


class _Cell(_Step):
    @classmethod
    def split(cls, module: nn.RNNCellBase) -> "_Cell":
        """The same cell, float, with the module's own Parameter objects, hooks and mode."""
        new = adopt(cls, module)
        tensors = {name: new._parameters.pop(name) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        mode = type(module).__name__.removesuffix("Cell")
        return _filled(new, f"RNN_{module.nonlinearity.upper()}" if mode == "RNN" else mode, tensors, module.training)

    @classmethod
    def from_float(cls, module: nn.RNNCellBase, qconfig) -> "_Cell":
        """`split` with both projections prepared for QAT."""
        new = cls.split(module)
        new.prepare(qconfig)
        return new

    def advance(self, input: Tensor, h: Tensor | None, c: Tensor | None) -> tuple[Tensor, Tensor]:
        if input.dim() not in (1, 2) or input.size(-1) != self.input_size:
            raise ValueError(f"{self.mode}Cell: input must have 1 or 2 dimensions, the last {self.input_size}, got {list(input.shape)}")
        shape = list(input.shape[:-1]) + [self.hidden_size]
        if h is None:
            h = torch.zeros(shape, dtype=input.dtype, device=input.device)
        if c is None:
            c = h
        if list(h.shape) != shape or list(c.shape) != shape:
            raise ValueError(f"{self.mode}Cell: hx must have shape {shape}, got {list(h.shape)} and {list(c.shape)}")
        return self.step(self.ih(input), h, c)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        _rename(state_dict, prefix, "", "")
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"{self.mode}, {self.input_size}, {self.hidden_size}"


class LSTMCell(_Cell):
    """torch.nn.LSTMCell that calls its projections as modules. Shape and arguments as torch.nn.LSTMCell."""

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        if hx is None:
            return self.advance(input, None, None)
        return self.advance(input, hx[0], hx[1])


class GRUCell(_Cell):
    """torch.nn.GRUCell that calls its projections as modules. Shape and arguments as torch.nn.GRUCell."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return self.advance(input, hx, hx)[0]


class RNNCell(GRUCell):
    """torch.nn.RNNCell that calls its projections as modules. Shape and arguments as torch.nn.RNNCell."""


def _filled(step: _Step, mode: str, tensors: dict[str, nn.Parameter | None], training: bool) -> _Step:
    step.setup(
        mode,
        linear_of(tensors["weight_ih"], tensors.get("bias_ih"), training),
        linear_of(tensors["weight_hh"], tensors.get("bias_hh"), training),
        linear_of(tensors["weight_hr"], None, training) if "weight_hr" in tensors else None,
    )
    return step


def _rename(state_dict: dict, prefix: str, cell: str, suffix: str) -> None:
    for part in ("ih", "hh", "hr"):
        for kind in ("weight", "bias"):
            old = f"{prefix}{kind}_{part}{suffix}"
            if old in state_dict:
                state_dict[f"{prefix}{cell}{part}.{kind}"] = state_dict.pop(old)


def keeps_weights(module: nn.Module) -> bool:
    """Whether all weights of a recurrent module are its parameters, and none is computed (by weight_norm, say)."""
    names = (name for names in module._all_weights for name in names) if isinstance(module, nn.RNNBase) else ("weight_ih", "weight_hh")
    return all(name in module._parameters for name in names)


# torch's class -> the one that calls its projections as modules.
SPLIT = {nn.RNN: RNN, nn.LSTM: LSTM, nn.GRU: GRU, nn.RNNCell: RNNCell, nn.LSTMCell: LSTMCell, nn.GRUCell: GRUCell}
