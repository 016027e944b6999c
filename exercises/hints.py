"""The steps of each derivation, one after the other: what check.py --hint shows. No answers."""

HINTS = {
    "product": (
        "Write one element with all its indices: out[n, o] = sum over c of x[n, c] * w[c, o]. "
        "Which elements of out does one x[n, c] reach?",
        "x[n, c] reaches out[n, o] for every o, with the factor w[c, o]. So dx[n, c] is a sum "
        "over o of dout[n, o] * w[c, o].",
        "In a product a @ b the index that is summed is the last of a and the first of b. Which "
        "of the two arrays in the sum has to be transposed for that? Then the same for dw.",
    ),
    "bias": (
        "A value that is copied to many places gets the sum of the gradients of these places.",
        "p[t, c] is in out[b, t, c] for every b. Which axis does the sum for dp run over?",
        "b[c] is in out for every sequence and every position: a sum over two axes.",
    ),
    "softmax": (
        "p_i = exp(x_i) / sum_m exp(x_m). Derive p_i with respect to x_j, for i = j and for "
        "i != j; write both with p_i and p_j alone.",
        "The two cases differ only by a term for i = j. dx_j is the sum over i of dout_i times "
        "that derivative.",
        "One part of the sum is a number for the whole row: the same for every j. Compute it "
        "once, with keepdims=True.",
    ),
    "crossentropy": (
        "The loss of a row is -log p_target. Put in p_target = exp(z_target) / sum_i exp(z_i), "
        "and split the logarithm.",
        "Derive the two terms with respect to z_j. One of them depends on z_j only if j is the "
        "target; the other gives something that the cache has.",
        "The loss is a mean over N rows, and dloss need not be 1. And the cache is only lent: "
        "change a copy.",
    ),
    "gelu": (
        "out is a product of two functions of x: 0.5 * x, and 1 + tanh(u). Use the product rule.",
        "The first term is the slope of the one times the other: it has no x in front. The second "
        "needs d tanh(u) / dx = (1 - tanh(u)^2) * du/dx.",
        "u = GELU_SCALE * (x + GELU_CUBIC * x^3). Derive that, constants included.",
    ),
    "layernorm": (
        "Begin at the end: out = norm * w + b. It gives dnorm, dw and db. Which of these are sums "
        "over the rows, because every row uses the same w and b?",
        "norm_i = (x_i - mean) * rstd. x_j changes norm_i directly (if i = j), through the mean, "
        "and through rstd. Derive the mean and rstd with respect to x_j.",
        "d mean / dx_j = 1 / C, and d rstd / dx_j = -rstd^2 * norm_j / C. Multiply dnorm_i with "
        "each of the three ways, and sum over i.",
        "Two of the sums over i are means over the channels of a row: of dnorm, and of something "
        "with norm. Keep the axis, and mind that rstd is in all three.",
    ),
    "embedding": (
        "out[b, t] = wte[tokens[b, t]] + wpe[t]. The gradient of a row that was copied is the sum "
        "over its copies.",
        "A token may stand in many places. `a[index] += values` stores only one of the values for "
        "an index that repeats; look up np.add.at.",
        "wpe[t] is used once in each sequence, and its rows from T on not at all.",
    ),
    "attention_head": (
        "Read the forward pass upwards. The last line is a product: it gives the gradient of att "
        "and that of v, as in exercise 1.",
        "The gradient of the scores before the softmax comes from that of att, as in exercise 3.",
        "The scores are a product as well, divided by sqrt(HS). k is used transposed there.",
    ),
    "attention": (
        "Cut dout into heads: reshape it to (B, T, NH, HS), and move the axis of the heads to the "
        "front. The forward pass did the reverse with out.",
        "Then it is exercise 8 with two axes in front, which @ and .mT leave alone. What the mask "
        "hides has an att of 0: what does that make of its score's gradient?",
        "Stack the three gradients: (3, NH, B, T, HS). Transpose that to the order that a row of "
        "qkv has, (B, T, 3, NH, HS), and only then reshape it.",
    ),
    "block": (
        "Read block_forward upwards; each line has its backward pass. Start at out = mid + fcproj: "
        "the gradient of a sum goes to each of its terms, unchanged.",
        "mid is used twice: in out, and by ln2. The gradient of a value that is used twice is the "
        "sum of both.",
        "The same once more at x, which is used in mid and by ln1.",
    ),
    "tied": (
        "Read gpt2_forward upwards: head, last layernorm, the blocks from the last to the first, "
        "the embedding. Each gives the dx that the next one takes.",
        "Which backward pass fills grads['wte'], and which adds to it? The order of the forward "
        "pass read upwards is just right.",
    ),
    "adamw": (
        "m becomes beta1 * m + g, v the same with beta2 and g * g; both in place, so with *= and "
        "+=, or [:] =.",
        "After `step` steps, the weights in m add up to 1 + beta1 + ... + beta1**(step - 1); "
        "divide by that, but do not store it. The same for v.",
        "The step is lr * (the mean from m) / (sqrt of the mean from v, plus eps). Where DECAYING "
        "has the name, p loses lr * weight_decay * p as well.",
    ),
    "accumulate": (
        "The gradient of a mean of losses is the mean of their gradients.",
        "gpt2_backward fills. So each batch needs arrays of its own to fill, which you then add; "
        "and the first addition needs something that is not nan to add to.",
        "dloss scales all gradients of a batch: what should it be for one of n batches?",
    ),
    "flash": (
        "att is exp(preatt) divided by the sum of its row. logsum is the logarithm of that sum: "
        "how do you get att from the two, with one exp?",
        "From there it is exercise 8, but for the sum over the row, of datt * att. Write datt out "
        "as dout @ v.T, and change the order of the two sums.",
        "What is left of that sum is a product of two rows, one of dout and one of out. So no "
        "whole row of att is needed for it.",
    ),
    "pieces": (
        "Each piece is a head of its own, with a loss that is a mean over its rows. How does the "
        "mean over all rows follow from these, if the pieces are not equally long?",
        "dloss scales all gradients of a piece: so that is where the piece's share goes.",
        "dx has its own rows for each piece. wte is used by all of them: what does that make of "
        "dwte, which head_backward fills, and does not add to?",
    ),
    "lora": (
        "low @ B.T is a linear layer without a bias, whose dout is scale times the given one. "
        "That gives dB, and the gradient of low.",
        "low = x @ A.T is another one. It gives dA, and a part of dx.",
        "x is used twice, by w and by A: the gradients of a value that goes two ways add up.",
    ),
    "pairs": (
        "A word of n tokens has n - 1 places where two stand side by side; zip(word, word[1:]) "
        "goes through them. How much does each count, if the text has the word several times?",
        "max(counts, key=counts.get) takes the first of equal ones. Python compares tuples from "
        "the left: what tuple is smallest for the pair that is wanted?",
    ),
    "encode": (
        "Two loops: over the merges, in their order; and for each one over the word, from left to "
        "right. Do not change a list while you go through it: put its tokens into a new one.",
        'What happens to "aaa" with the merge (a, a)? Once a token is part of a merge it is gone, '
        "and the next place begins behind it.",
        "Look at the end of the word: does its last token arrive, whether it was merged or not?",
    ),
    "rms": (
        "Begin at the end: out = norm * w gives dnorm and dw, as in layernorm.",
        "norm_i = x_i * rrms. x_j changes norm_i directly (if i = j), and through rrms. Derive "
        "rrms with respect to x_j; x_j * rrms is norm_j.",
        "d rrms / dx_j = -rrms^2 * norm_j / C. Multiply dnorm_i with both ways, and sum over i: "
        "one of the sums is a mean over the row.",
    ),
    "rope": (
        "A turn is a product with the matrix (cos, -sin; sin, cos). What is the gradient of what "
        "was multiplied with a matrix?",
        "a is in both numbers of the turned point: da is a sum of two terms. So is db.",
        "Transposed, the matrix turns back. Put the two channels of a pair side by side again.",
    ),
    "grouped": (
        "As if nothing had been copied, it is exercise 8 with an axis in front, which @ and .mT "
        "leave alone. That gives a gradient for each copy.",
        "A value that is copied gets the sum of the gradients of its copies.",
        "repeat(group, 0) puts the copies of a head side by side: which reshape gives them an axis "
        "of their own?",
    ),
}
