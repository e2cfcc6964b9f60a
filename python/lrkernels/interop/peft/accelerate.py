"""Run the LoRA, OFT, BOFT and HRA layers of a PEFT model on lrkernels' ops, in place."""

from __future__ import annotations

from torch import nn

from lrkernels.interop.peft.accelerate_report import AccelerateReport


def accelerate(model: nn.Module, *, strict: bool = False) -> AccelerateReport:
    """Run the LoRA, OFT, BOFT and HRA linear layers of a PEFT model on lrkernels' ops, in place.

        model = peft.get_peft_model(base_model, config)
        print(lrkernels.accelerate(model))

    Nothing but the layers' forward changes: parameters, state-dict keys, configs, ``save_pretrained``,
    ``load_adapter``, ``set_adapter``, ``add_adapter``, merging, gradient checkpointing, ``generate`` and
    ``torch.compile`` are PEFT's. ``lrkernels.restore(model)`` undoes it.

    Fused LoRA: ``lora.Linear`` over nn.Linear (one op computes base and update) and over the Conv1D of transformers;
    over any other kind of nn.Linear, and the quantised layers that PEFT has LoRA classes for, the base layer computes
    its own output and the op adds to it. rsLoRA, lora_bias, dropout, several active adapters (without dropout one op
    for all), scalings that change, autocast, and adapters in another dtype than the base are covered. Dropout draws its
    mask from a seed, one an adapter and forward: the distribution is torch's, the mask is not. Factors in half
    precision beside float32 activations are cast up, where PEFT casts the activations down. float32 factors beside half
    activations are read as they are on the CPU; on CUDA the tensor cores round them, where PEFT computes the update in
    float32. DoRA is fused where the base layer's weight is plain: the row norms are those of the merged weight,
    constant to the gradient as in PEFT, whose dropout it keeps. A batch with ``adapter_names`` (mixed ranks,
    "__base__", beam search) is one ``lowrank_linear_indexed`` a layer; PEFT computes it where one of its adapters has
    lora_bias or dropout that is on, or their dtypes differ.

    Fused orthogonal methods: OFT (exact or series, shared blocks, COFT) and BOFT over any base layer, quantised ones
    too, which takes the rotated x; HRA over any nn.Linear with a weight to read, Gram-Schmidt or not. The rotation is
    built from the weights in every forward, in float32 for half-precision weights, and no [in, in] matrix is. Half x
    beside float32 adapters is rotated in float32 and rounded once. PEFT's HRA then multiplies in the adapters' dtype,
    float32 beside a half-precision base; here the base keeps its own.

    Left to PEFT, each with its reason in the report: layers whose adapters are all of another kind (aLoRA, Arrow, ...;
    a layer that has plain adapters too is fused while only these are active), DoRA over a quantised layer, adapters of
    embeddings, convolutions, attention and bare parameters, BOFT adapters of one layer with different butterflies,
    other methods; layers with hooks on them or on a layer inside (of the orthogonal methods: on ``oft_R``, for they
    call the base layer), DTensors and shards, because there the layers inside have to be called. The same rules are
    applied again in every forward, so a hook registered later is honoured, and the layer is fused again once it is
    gone. Also left to PEFT is a forward with further arguments. Forward-mode differentiation (``torch.func.jvp``) of a
    fused layer raises; ``restore`` the model for it.

    The report tells what holds now. Layers that PEFT adds later (``add_adapter`` with other target modules) run
    as stock until the next call; adapters added to a fused layer are fused at once. A model pickled whole needs
    lrkernels to be loaded; what ``save_pretrained`` writes does not.

    With ``strict`` a declined layer raises ValueError, listing all of them, before anything has changed. Raises
    ImportError without PEFT, TypeError when ``model`` is no module, ValueError when it has no layer of PEFT.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"accelerate: model is {type(model).__name__}, expected an nn.Module")
    found = _peft_layers(model, "accelerate")
    if not found:
        raise ValueError(
            "accelerate: the model has no PEFT layer; call peft.get_peft_model first (prompt tuning and its relatives "
            "adapt no layer)"
        )
    from lrkernels.interop.peft.examine import examine, fused_class
    from lrkernels.interop.peft.fused_class import stock_class

    report = AccelerateReport([examine(model, name, layer) for name, layer in found])
    if strict and report.declined:
        lines = "\n".join(str(layer) for layer in report.layers if not layer.fused)
        raise ValueError(f"accelerate: strict, and {len(report.declined)} of {len(report)} layers declined:\n{lines}")
    for (_, layer), entry in zip(found, report.layers, strict=True):
        stock = stock_class(type(layer))
        wanted = fused_class(stock) if entry.fused else stock
        if wanted is not type(layer):
            layer.__class__ = wanted
    return report


def restore(model: nn.Module) -> int:
    """Give every layer that ``accelerate`` fused its PEFT class back; returns how many there were.

    Raises RuntimeError, before anything has changed, where a class was derived from a fused one since (``fully_shard``
    of the layer itself): it cannot be taken back.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"restore: model is {type(model).__name__}, expected an nn.Module")
    found = _peft_layers(model, "restore")
    from lrkernels.interop.peft.fused_class import FusedForward, is_subclassed, stock_class

    fused = [layer for _, layer in found if isinstance(layer, FusedForward)]
    derived = [name for name, layer in found if is_subclassed(type(layer))]
    if derived:
        raise RuntimeError(
            f"restore: the classes of {', '.join(derived)} were derived from fused ones since accelerate"
        )
    for layer in fused:
        layer.__class__ = stock_class(type(layer))
    return len(fused)


def _peft_layers(model: nn.Module, caller: str) -> list[tuple[str, nn.Module]]:
    try:
        import peft
    except ModuleNotFoundError as error:
        if error.name != "peft":
            raise
        raise ImportError(f"{caller}: PEFT is not installed: pip install 'lrkernels[peft]'", name="peft") from error
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer)
    ]
