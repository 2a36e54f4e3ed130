"""Small tokenizers of every kind that eval/model reads, and the ids that Hugging Face's `tokenizers` gives hard
texts by them. Each KIND becomes KIND.json (a tokenizer.json) and KIND.ids.json; some become KIND.gguf too, which
has no tensors. Made with tokenizers 0.23.3, sentencepiece 0.2.3 and gguf 0.19:

    python3 tests/vectors/tokenizers/make.py          (from the root of the tree)
"""
import io
import json
import pathlib
import re

import gguf
import sentencepiece
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors,
                        trainers)

HERE = pathlib.Path(__file__).parent
TEXT = (HERE / "../../../data/sample.txt").read_text(encoding="utf-8")[:120_000]
# A little of everything, so that there are merges of other scripts, digits and runs of spaces.
EXTRA = """\
naïve café Übermut straße \u0065\u0301te\u0301 ÅÅÅ Ａ１２ 12345 67 1999 2024 3.14159 100,000 ١٢٣ ४५६ ½¾ ⅷ
Привет, мир! Как дела? 世界 你好世界 日本語のテキスト 한국어 텍스트 שלום עולם مرحبا بالعالم हिन्दी ไทย
😀😀 👩‍👩‍👧‍👦 🇩🇪 don't DON'T I'll I'LL we've WE'VE he'd they're it's IT'S
def f(x):\n    return x + 1\n\n\n        if x:\n\t\tpass\r\n\r\n  --  ==  <<>>  ...  !!! ??
"""
CORPUS = [TEXT] + [EXTRA] * 12

CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3, QWEN2 = CL100K % "{1,3}", CL100K % ""

TEXTS = [
    "", " ", "  ", "   \n\t ", "a", " a", "a ", "  a  b  ", "Hello, world!", "Once upon a time, there was a girl.",
    "Don't DON'T don’t I'LL I'll we'Ve 'S 's 'RE 'ſ", "1 12 123 1234 12345 1234567890 3.14 1,000,000 2²",
    "١٢٣٤٥ ४५६७ ½ ⅷ ㊿ Ａ１２３ ⁵", "naïve café e\u0301te\u0301 \u212b \u0041\u030a \ufb01 Å", "a\u0323\u0307 a\u0307\u0323 q\u0307\u0323\u0301\u0328",
    "\uac00 \u1100\u1161 \u1100\u1161\u11a8 한국어", "世界你好，世界。日本語のテキスト", "Привет, мир! ПРИВЕТ", "שלום עולם مرحبا بالعالم \u200fabc\u200e",
    "हिन्दी में क्षत्रिय ไทยภาษา", "😀 👩‍👩‍👧‍👦 🇩🇪🇫🇷 👍🏽 ❤️ ☃", "\u00a0a\u00a0\u00a0b\u2003c\u2009\u2009d\u3000e\u3000\u3000\u202f\u205f1",
    "\u180e\u180ea \u200b\u200b \ufeffb \u2060c \u1680", "\u2028a\u2029b\u0085c\u000b\u000cd", "line\r\nline\r\n\r\n\r\nend\r", "\n\n\n a\n \n  b\n\t\n",
    "\ttab\t\ttab \t mixed\t ", "a\u0000b\u0000\u0000", "\u0001\u0002\u001b[0m\u007f\u0080\u009f", "x" * 300, "ab" * 200, " " * 129 + "x" + " " * 65,
    "\n" * 70, "!?" * 60 + "...", "7" * 100, "é" * 80, "😀" * 40, "▁▁ a▁b ▁ c", "<s> </s> <unk><s>a</s>b", "<|endoftext|>",
    "a<|endoftext|>b <|endoftext|> c", "<|im_start|>user\nHi<|im_end|>\n", "<|begin_of_text|>x<|begin_of_text|> <|endoftext", "<|endoftext|><|endoftext|>|>",
    "word<mask>word  <mask>  word", "<w> a<w>b <w>c d<w> (<w>)", "[NORM] [norm] a[NORM] [NORM]b é[NORM]\u0301", "<0x41><0x0A> <0xE4>", "_under_score __init__ snake_case a_b",
    "def f(x):\n    return x**2  # √x ≠ ∞\n\n\n    if not x:\n\t\tpass\n", "https://example.org/a?b=c&d=%20#e", "a'b''c'''s'S's", "e\u0301\u0301\u0301\u0316\u0316x\u0338=\u0338",
    "ſ K Å ǅ ʰ ª ß ẞ İ ı", "𝒜𝓁𝓅𝒽𝒶 𝟘𝟙𝟚 𐍈 🂡 \U0010fffd \ufffd \uffff", "A\u0301.\u0301 \u0301a \u200d\u0301", "«guillemets» „quotes“ —dash– …", "CamelCaseWordsHTTPServer XMLHttpRequest2",
    "end with spaces   ", "\u00a0", "\ufffd\ufffd", "mixed：全角，punctuation！？ 100％", "price: $5.00 €6 £7 ¥8 + 9 = 14 <> ^~|`",
]


def added():
    return [AddedToken("<|endoftext|>", special=True), AddedToken("<|im_start|>", special=True),
            AddedToken("<|im_end|>", special=True), AddedToken("<|begin_of_text|>", special=True),
            AddedToken("<mask>", lstrip=True, rstrip=True, normalized=False),
            AddedToken("<w>", single_word=True, normalized=False), AddedToken("[NORM]", normalized=True)]


def byte_level(pre, normalizer=None, ignore_merges=False, vocab=700, post=None, initial=True):
    t = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    t.pre_tokenizer, t.decoder = pre, decoders.ByteLevel()
    if normalizer:
        t.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet() if initial else []
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=vocab, show_progress=False, initial_alphabet=alphabet))
    t.add_tokens(added())
    t.post_processor = post(t) if post else processors.ByteLevel(trim_offsets=False)
    return t


def split(pattern, behavior="isolated"):
    return pre_tokenizers.Split(Regex(pattern), behavior=behavior, invert=False)


def bare():
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def template(t, token):
    return processors.TemplateProcessing(single=f"{token} $A", pair=f"{token} $A {token} $B",
                                         special_tokens=[(token, t.token_to_id(token))])


def llama3():
    def post(t):
        return processors.Sequence([processors.ByteLevel(trim_offsets=False), template(t, "<|begin_of_text|>")])
    t = byte_level(pre_tokenizers.Sequence([split(LLAMA3), bare()]), ignore_merges=True, post=post)
    # Tokens that no merge makes, which ignore_merges finds all the same.
    state = json.loads(t.to_str())
    dropped = {m[0] + m[1] for m in state["model"]["merges"][100:160]}
    state["model"]["merges"] = [m for m in state["model"]["merges"]
                                if not {m[0], m[1], m[0] + m[1]} & dropped]
    return Tokenizer.from_str(json.dumps(state))


def sentencepiece_model():
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter("".join(CORPUS).split("\n")), model_writer=out, model_type="bpe", vocab_size=800,
        byte_fallback=True, character_coverage=0.995, normalization_rule_name="identity", add_dummy_prefix=True,
        remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True, minloglevel=2)
    return sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())


def pieces(sp):
    return [(sp.id_to_piece(i), sp.get_score(i)) for i in range(sp.get_piece_size())]


def merges_of(sp):
    """As transformers makes them of a SentencePiece model: every way to cut a piece, by the piece's score."""
    ids = {p: i for i, (p, _) in enumerate(pieces(sp))}
    found = []
    for i, (piece, score) in enumerate(pieces(sp)):
        if sp.is_control(i) or sp.is_unknown(i) or sp.is_byte(i):
            continue
        cuts = [(piece[:k], piece[k:]) for k in range(1, len(piece)) if piece[:k] in ids and piece[k:] in ids]
        found += [(a, b, score) for a, b in sorted(cuts, key=lambda c: (ids[c[0]], ids[c[1]]))]
    return [(a, b) for a, b, _ in sorted(found, key=lambda m: m[2], reverse=True)]


def characters(sp, metaspace=None, normalizer=None, pre=None, post=True, **model):
    options = {"byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>", **model}
    vocab = {p: i for i, (p, _) in enumerate(pieces(sp))}
    if not options["byte_fallback"]:
        vocab = {p: n for n, p in enumerate(p for p, i in vocab.items() if not sp.is_byte(i))}
    t = Tokenizer(models.BPE(vocab=vocab, merges=merges_of(sp), **options))
    if normalizer:
        t.normalizer = normalizer
    if metaspace or pre:
        t.pre_tokenizer = metaspace or pre
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                   decoders.Strip(" ", 1, 0)])
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in ("<unk>", "<s>", "</s>")])
    t.add_tokens(added())
    if post:
        t.post_processor = template(t, "<s>")
    return t


def legacy():
    return normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


def kinds():
    sp = sentencepiece_model()
    metaspace = pre_tokenizers.Metaspace
    yield "gpt2", byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    yield "gpt2_prefix", byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True), vocab=400)
    yield "llama3", llama3()
    yield "qwen2", byte_level(pre_tokenizers.Sequence([split(QWEN2), bare()]), normalizer=normalizers.NFC())
    yield "smollm", byte_level(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                        pre_tokenizers.ByteLevel(add_prefix_space=False)]))
    # Bytes that the text does not have are no tokens, as in SmolLM2.
    yield "holes", byte_level(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=False),
                                                       pre_tokenizers.ByteLevel(add_prefix_space=False)]),
                              vocab=400, initial=False)
    yield "splits", byte_level(pre_tokenizers.Sequence([
        split("[\r\n]", "removed"), split(r"\s?\w+", "merged_with_previous"), split("e|,", "merged_with_next"),
        split("[0-9][0-9]", "contiguous"), pre_tokenizers.Split(" ", "merged_with_previous"),
        pre_tokenizers.Split(Regex(r"[^\S\n]x|\S\W|\by"), behavior="isolated", invert=True),
        pre_tokenizers.Punctuation("contiguous"), bare()]), vocab=400)
    yield "llama2", characters(sp, normalizer=legacy())
    yield "mistral", characters(sp, metaspace=metaspace(prepend_scheme="first", split=False))
    yield "metaspace", characters(sp, metaspace=metaspace(prepend_scheme="always", split=True), post=False)
    yield "gemma", characters(sp, normalizer=normalizers.Replace(" ", "▁"),
                              pre=pre_tokenizers.Split(" ", "merged_with_previous"))
    yield "unk", characters(sp, metaspace=metaspace(prepend_scheme="never", split=False), byte_fallback=False)
    yield "unks", characters(sp, metaspace=metaspace(prepend_scheme="never", split=False), byte_fallback=False,
                             fuse_unk=False)
    write_spm_gguf(sp)


def write(name, t):
    state = json.loads(t.to_str())
    (HERE / f"{name}.json").write_text(json.dumps(state, ensure_ascii=False, separators=(",", ":")) + "\n",
                                       encoding="utf-8")
    write_ids(name, [t.encode(text, add_special_tokens=False).ids for text in TEXTS],
              t.encode("", add_special_tokens=True).ids)


def write_ids(name, ids, bos):
    rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in ids)
    (HERE / f"{name}.ids.json").write_text(f'{{"bos":{json.dumps(bos)},"ids":[\n{rows}]}}\n', encoding="utf-8")


def write_gguf(name, kind, pre, t):
    """The byte-level tokenizer of name.json. GGUF knows only some added tokens' kinds, so only those stay."""
    state = json.loads(t.to_str())
    special = {a["content"] for a in state["added_tokens"] if a["special"]}
    tokens = sorted(t.get_vocab(with_added_tokens=True).items(), key=lambda x: x[1])
    w = gguf.GGUFWriter(HERE / f"{name}.gguf", "llama")
    w.add_tokenizer_model(kind)
    w.add_tokenizer_pre(pre)
    w.add_token_list([p for p, _ in tokens])
    w.add_token_types([gguf.TokenType.CONTROL if p in special else gguf.TokenType.USER_DEFINED
                       if p in ("<mask>", "<w>", "[NORM]") else gguf.TokenType.NORMAL for p, _ in tokens])
    w.add_token_merges([" ".join(m) for m in state["model"]["merges"]])
    w.add_eos_token_id(t.token_to_id("<|endoftext|>"))
    w.add_bos_token_id(t.token_to_id("<|begin_of_text|>"))
    finish(w)
    plain = [dict(a, single_word=False, lstrip=False, rstrip=False, normalized=False) for a in state["added_tokens"]]
    u = Tokenizer.from_str(json.dumps(dict(state, added_tokens=plain)))
    bos = [t.token_to_id("<|begin_of_text|>")] if pre == "llama-bpe" else []
    write_ids(f"{name}.gguf", [u.encode(text, add_special_tokens=False).ids for text in TEXTS], bos)


def write_spm_gguf(sp):
    """SentencePiece's model; the ids are its own, of the text with a space before it and between its symbols."""
    kind = gguf.TokenType
    w = gguf.GGUFWriter(HERE / "spm.gguf", "llama")
    w.add_tokenizer_model("llama")
    w.add_token_list([p for p, _ in pieces(sp)])
    w.add_token_scores([s for _, s in pieces(sp)])
    w.add_token_types([kind.CONTROL if sp.is_control(i) else kind.UNKNOWN if sp.is_unknown(i) else kind.BYTE
                       if sp.is_byte(i) else kind.NORMAL for i in range(len(pieces(sp)))])
    finish(w)
    names = {sp.id_to_piece(i): i for i in range(3)}
    rows = []
    for text in TEXTS:
        parts = re.split("(" + "|".join(names) + ")", text)
        rows.append([i for part in parts for i in ([names[part]] if part in names else sp.encode(part) if part else [])])
    write_ids("spm.gguf", rows, [1])


def finish(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main():
    (HERE / "texts.json").write_text(json.dumps(TEXTS, indent=0) + "\n")
    for name, t in kinds():
        write(name, t)
        pre = {"gpt2": "gpt-2", "llama3": "llama-bpe", "qwen2": "qwen2", "smollm": "smollm"}.get(name)
        if pre:
            write_gguf(name, "gpt2", pre, t)


if __name__ == "__main__":
    main()
