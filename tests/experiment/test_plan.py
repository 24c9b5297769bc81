from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file, save_file

from compress_exp.config.checks import FieldError, UserError
from compress_exp.config.schema import CONF
from compress_exp.experiment.build import build_baseline, run_stage
from compress_exp.experiment.plan import plan
from tests.experiments import planned

UNNEEDED = (
    *("transformers", "tokenizers", "safetensors", "huggingface_hub", "lightning", "torchmetrics"),
    *("torch._dynamo", "torch.distributed.tensor", "torch._inductor", "sympy", "scipy", "pandas", "pyarrow"),
    *("datasets", "evaluate", "openvino", "onnxruntime", "wandb", "plotly", "jinja2", "rich"),
)
IMPORTS = """import json, sys
from compress_exp.cli.main import main
code = main(sys.argv[1:])
print(json.dumps(sorted(sys.modules)))
sys.exit(code)"""


def test_the_baseline_must_train(data):
    for setting in ("train.max_steps=0", "train.max_steps=null"):
        epochs = ["task.epochs=0"] if setting.endswith("null") else []
        with pytest.raises(UserError, match=r"train\.max_steps: the baseline needs training"):
            planned("bert", data, "method=prune", setting, *epochs)


def test_what_does_not_decide_the_result_is_not_in_the_key(data):
    plan = planned("bert", data, "method=prune")
    for other in ("train.threads=2", "train.checkpoint_steps=9", "tracking=csv", "task.epochs=9", "outputs=elsewhere"):
        assert planned("bert", data, "method=prune", other).recipes == plan.recipes, other
    for other in (
        "seed=1",
        "train.max_steps=4",
        "task.train_fraction=0.5",
        "train.precision=bf16",
        "task.max_length=16",
    ):
        assert planned("bert", data, "method=prune", other).baseline_key != plan.baseline_key, other
    for other in ("method.prune.sparsity=0.6", "loss=soft_targets", "method.prune.train.learning_rate=0.1"):
        changed = planned("bert", data, "method=prune", other)
        assert changed.baseline_key == plan.baseline_key, other
        assert changed.artifact_key != plan.artifact_key, other
    measured = planned("bert", data, "method=prune", "hardware=cpu_eager")
    assert measured.artifact_key == plan.artifact_key
    assert measured.run_id != plan.run_id


def test_the_order_of_a_pipeline_decides_the_key(data):
    one = planned("bert", data, "method=[prune,distill]")
    other = planned("bert", data, "method=[distill,prune]")
    assert one.artifact_key != other.artifact_key


def test_whole_numbers_and_floats_of_one_value_are_one_key(data):
    keys = {planned("bert", data, "method=prune", f"train.weight_decay={v}").artifact_key for v in ("1", "1.0")}
    assert len(keys) == 1


def test_data_count_by_content(data, tmp_path):
    for file in data.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert planned("bert", tmp_path, "method=prune").recipes == planned("bert", data, "method=prune").recipes
    with (tmp_path / "train.jsonl").open("a") as stream:
        stream.write('{"text": "one more", "label": 1, "source": "a", "target": "b"}\n')
    assert planned("bert", tmp_path, "method=prune").recipes != planned("bert", data, "method=prune").recipes


def test_unknown_roles_kinds_and_rounds_are_refused(data):
    with pytest.raises(UserError, match="'qurey' is no role; did you mean query"):
        planned("bert", data, "method=prune", "method.prune.select.roles=[qurey]")
    with pytest.raises(UserError, match=r"cannot do task=seq2seq"):
        planned("bert", data, "method=prune", "task=seq2seq")
    with pytest.raises(UserError, match=r"method.finetune.rounds: there is no such key"):
        planned("bert", data, "method=finetune", "+method.finetune.rounds=3")
    method = planned("bert", data, "method=prune").stages[0].methods[0]
    assert replace(method, start=0.7, end=0.7).own_progress(0.5) == 0.0
    with pytest.raises(FieldError, match="lies after"):
        replace(method, start=0.8, end=0.7)


def test_a_compressed_model_is_no_dense_one(data, dense, tmp_path):
    plan = planned("bert", data, "method=prune")
    run_stage(plan, 0, dense(plan), dense(plan), tmp_path)
    with pytest.raises(UserError, match="is compressed already"):
        planned("bert", data, "method=prune", f"model.path={tmp_path}")


def test_a_teacher_of_another_kind_is_refused(data, dense):
    other = dense(planned("gpt2", data, "method=prune"))
    with pytest.raises(UserError, match="teacher: .* is of kind decoder"):
        planned("bert", data, "method=prune", "loss=soft_targets", f"teacher={other}")


def test_a_model_with_another_head_is_no_teacher_and_no_baseline(data, dense):
    other = dense(planned("bert", data, "method=finetune"))
    sentence = (
        r"the checkpoint is a BertForSequenceClassification, task=question_answering needs .* ForQuestionAnswering$"
    )
    with pytest.raises(UserError, match=f"^teacher: {sentence}"):
        planned("answers", data, "method=prune", "loss=soft_targets", f"teacher={other}")
    with pytest.raises(UserError, match=rf"^model\.finetuned: {sentence}"):
        planned("answers", data, "method=finetune", "model.finetuned=true", f"model.path={other}")


@pytest.mark.parametrize("model", ["tiny_gpt2", "tiny_bart"])
def test_a_task_is_for_the_kinds_of_model_that_it_declares(model, data):
    kind = {"tiny_gpt2": "decoder", "tiny_bart": "encoder-decoder"}[model]
    sentence = rf"a model of kind {kind} cannot do task=question_answering .*; take a model of kind encoder$"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [f"model={model}", "task=question_answering", "method=prune"])
    with pytest.raises(UserError, match=f"^model: {sentence}"):
        plan(config)


@pytest.mark.parametrize("method", ["finetune", "quant/static"])
def test_a_teacher_whose_tensors_are_not_its_model_s_is_refused_before_training(method, data, dense, tmp_path):
    plan = planned("bert", data, f"method={method}")
    run_stage(plan, 0, dense(plan), dense(plan), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["classifier.bias"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"artifact: .* \(classifier\.bias is missing\)"):
        planned("bert", data, "method=prune", "loss=soft_targets", f"teacher={tmp_path}")


def test_a_given_baseline_must_mean_the_same_labels(data, dense, tmp_path):
    given = dense(planned("bert", data, "method=finetune"))
    finetuned = ("model.finetuned=true", f"model.path={given}")
    plan = planned("bert", data, "method=finetune", *finetuned)
    facts = build_baseline(plan, tmp_path)
    assert facts["steps"] == 0
    turned = planned("bert", data, "method=finetune", *finetuned, "task.classes=[a,b]")
    with pytest.raises(UserError, match=r"model\.finetuned: label 0 is '0' in the checkpoint and 'a' in the task"):
        build_baseline(turned, tmp_path)


def modules_after(*arguments: str) -> set[str]:
    """What is imported once a command has ended."""
    command = [sys.executable, "-c", IMPORTS, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("method", ["quant", "[prune,quant]", "distill", "prune/n_m"])
def test_a_plan_imports_no_more_than_torch(method, tmp_path):
    modules = modules_after(f"method={method}", "plan=true", f"outputs={tmp_path}")
    assert "torch" in modules
    assert not modules & set(UNNEEDED)


def test_a_plan_for_a_checkpoint_imports_no_more_than_torch(data, dense, tmp_path):
    checkpoint = dense(planned("bert", data, "method=quant"))
    given = [f"model.path={checkpoint}", f"task.data_dir={data}"]
    modules = modules_after(
        "model=bert", "task=classification", *given, "method=quant", "plan=true", f"outputs={tmp_path}"
    )
    assert "torch" in modules
    assert not modules & set(UNNEEDED)
