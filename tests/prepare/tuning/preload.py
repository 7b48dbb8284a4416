"""What the server of forks loads before it forks; nothing is computed there, so that no thread is left behind."""

import accelerate  # noqa: F401
import datasets  # noqa: F401
import peft  # noqa: F401
import torch  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, Trainer  # noqa: F401
from trl import DPOTrainer  # noqa: F401

import hybrid_llm.prepare.tuning.session  # noqa: F401
import tests.prepare.tuning.children  # noqa: F401
