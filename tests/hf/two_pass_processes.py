"""Run under torchrun by test_processes_of_sam.py: trains with SAM, and writes the first process's weights."""

import sys

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import TrainingArguments

from remanent.hf.two_pass import TwoPassTrainer
from remanent.optim import SAM


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, inputs, labels):
        return {"loss": nn.functional.cross_entropy(self.layers(inputs), labels)}


def items(count=64):
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(count, 6, generator=generator), torch.randint(0, 3, (count,), generator=generator)
    return [{"inputs": row, "labels": label} for row, label in zip(inputs, labels, strict=True)]


def main(out, processes, accumulated):
    model = Net()
    args = TrainingArguments(
        output_dir=f"{out}/run{processes}",
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",
        per_device_train_batch_size=16 // (processes * accumulated),
        gradient_accumulation_steps=accumulated,
        num_train_epochs=1,
    )
    options = {"base": torch.optim.SGD, "lr": 0.1, "rho": 0.4, "momentum": 0.9, "perturbation": "global"}
    TwoPassTrainer(model, args, train_dataset=items(), optimizer_cls_and_kwargs=(SAM, options)).train()
    if int(torch.distributed.is_initialized() and torch.distributed.get_rank()) == 0:
        save_file({name: w.detach() for name, w in model.named_parameters()}, f"{out}/{processes}.safetensors")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], *(int(item) for item in sys.argv[2:]))
