"""Run under torchrun by test_processes.py: trains, and writes the first process's weights."""

import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, TrainingArguments

from remanent.core.batch import Encoded
from remanent.hf.trainer import MethodTrainer
from remanent.unlearning import durable


def records(count, seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = [int(torch.randint(4, 11, (), generator=generator)) for _ in range(count)]
    ids = [tuple(torch.randint(5, 200, (length,), generator=generator).tolist()) for length in lengths]
    return [Encoded(item, (-100, -100, *item[2:]), key=str(index)) for index, item in enumerate(ids)]


def main(folder, out, processes, accumulated, saved):
    model = AutoModelForCausalLM.from_pretrained(folder)
    args = TrainingArguments(
        output_dir=f"{out}/run{processes}",
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="steps",
        save_steps=2,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        per_device_train_batch_size=4 // (processes * accumulated),
        gradient_accumulation_steps=accumulated,
        num_train_epochs=2,
        seed=3,
    )
    trainer = MethodTrainer(model, durable.method(), args, {"forget": records(10, 1), "retain": records(7, 2)})
    trainer.train(resume_from_checkpoint=f"{args.output_dir}/checkpoint-{saved}" if saved else None)
    if trainer.is_world_process_zero():
        weights = {name: tensor.detach().contiguous() for name, tensor in model.named_parameters()}
        save_file(weights, f"{out}/{processes}-{saved}.safetensors")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *(int(item) for item in sys.argv[3:]))
