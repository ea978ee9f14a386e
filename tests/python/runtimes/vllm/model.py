"""Makes the model of the vLLM tests: a Llama of 5 MB with random weights. Nothing is downloaded.

A random model is good enough, and better in one way: its greedy tokens depend on every bit of the KV cache, so a page
that is wrong shows in the tokens at once.
"""

import os
import sys
import tempfile
from pathlib import Path

N_TOKENS_VOCABULARY = 512
SEED = 12


def tiny_llama(cache: Path) -> Path:
    """Returns the folder of the model, which is made if `cache` does not have it.

    Several processes may call this at the same time: the folder appears complete or not at all.
    """
    folder = cache / f"llama-5mb-seed-{SEED}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as made:
        _write(Path(made))
        try:
            os.rename(made, folder)
        except OSError:
            if not folder.is_dir():
                raise
        else:
            os.mkdir(made)  # for `TemporaryDirectory` to remove
    return folder


def _write(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=N_TOKENS_VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=4096,
        initializer_range=0.1,  # with the usual 0.02 the tokens soon repeat
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)

    special = ["<unk>", "<s>", "</s>"]
    words = special + sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={word: at for at, word in enumerate(words)}, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)


if __name__ == "__main__":
    print(tiny_llama(Path(sys.argv[1])))
