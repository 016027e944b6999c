"""Errors for tests/test_mutants.py to put into variants/ and what takes their layers."""

MUTANTS = r"""
== flash attention
@ variants/flash_attention.py
? test_variants_flash.py -k "lessons or test_gradient or kept"
- for start in range(0, T, TILE)]
+ for start in range(0, T - T % TILE or T, TILE)]  # the last, shorter tile
- [np.s_[:, :, start : start + TILE] for
+ [np.s_[:, :, start : start + TILE + 1] for  # tiles overlap
- preatt = q @ k.mT / math.sqrt(q.shape[-1])
+ preatt = q @ k.mT  # scores without 1/sqrt(HS)
+ preatt = q @ k.mT / math.sqrt(len(q) * q.shape[-1])  # sqrt(C)
- if same_tokens:
+ if False:  # no mask
+ if True:  # a mask on earlier tiles, too
- -np.inf, q.dtype), 1)
+ -np.inf, q.dtype), 2)  # mask off by one
+ 0, q.dtype), 1)  # mask of 0
+ -1, q.dtype), 1)  # mask of -1
+ -50, q.dtype), 1)  # mask of -50
- enumerate(every[: i + 1]):$            preatt
+ list(enumerate(every[: i + 1]))[-2:]:$            preatt  # no more than two tiles of keys
+ list(enumerate(every[: i + 1]))[-1:]:$            preatt  # its own tile of keys alone
- np.maximum(most, preatt.max(-1, keepdims=True))
+ preatt.max(-1, keepdims=True)  # the maximum of this tile alone
+ 0 * preatt.max(-1, keepdims=True)  # no maximum subtracted
- weights = np.exp(preatt - more)
+ weights = np.exp(preatt - most)  # the maximum of the tiles before
+ weights = np.exp(preatt - more) / 2  # a tile weighs half
- shrink = np.exp(most - more)
+ shrink = np.exp(more - most)  # shrunk the wrong way
+ shrink = 1.0  # not shrunk
- total = total * shrink + weights.sum
+ total = total + weights.sum  # denominator not shrunk
+ total = weights.sum  # denominator of the last tile
- mixed = mixed * shrink + weights
+ mixed = mixed + weights  # numerator not shrunk
+ mixed = weights  # numerator of the last tile
- weights @ v[seen]
+ weights @ k[seen]  # keys for values
- most = more$
+ pass$  # the maximum stays -inf
- outs.append(mixed / total)
+ outs.append(mixed)  # not divided
- most + np.log(total)
+ np.log(total)  # logarithm without the maximum
+ most + total  # no logarithm
+ most  # the maximum alone
- mean = (dout * out).sum(
+ mean = (dout * out).mean(  # mean over channels
+ mean = 0 * (dout * out).sum(  # softmax's mean term dropped
- (datt - mean[tile])
+ (datt + mean[tile])  # sign of the mean
- - logsum[tile])
+ - logsum[seen])  # sums of other rows
+ )  # weights not divided by the sum
- att * (datt - mean[tile]) / math.sqrt(q.shape[-1])
+ att * (datt - mean[tile])  # no 1/sqrt(HS) backward
+ (datt - mean[tile]) / math.sqrt(q.shape[-1])  # dpreatt without att
- dq[tile] +=
+ dq[tile] =  # dq of the last tile only
- dk[seen] +=
+ dk[seen] =  # dk of the last tile only
- dv[seen] +=
+ dv[seen] =  # dv of the last tile only
- dpreatt @ k[seen]
+ dpreatt @ v[seen]  # dq of the values
- dpreatt.mT @ q[tile]
+ dpreatt.mT @ k[tile]  # dk of the keys
- att.mT @ dout[tile]
+ dpreatt.mT @ dout[tile]  # dv of dpreatt
- dout[tile] @ v[seen].mT
+ dout[tile] @ k[seen].mT  # datt of the keys
- return dq, dk, dv
+ return dk, dq, dv  # dq and dk swapped
+ return dq, dv, dk  # dk and dv swapped
- k[seen], j == i) - logsum
+ k[seen], False) - logsum  # no mask backward
- att = np.exp(scores
+ att = (j == i) * np.exp(scores  # backward, its own tile of keys alone
- out.transpose(1, 2, 0, 3).reshape
+ out.transpose(1, 2, 3, 0).reshape  # heads and channels mixed
- dout.reshape(B, T, NH, HS).transpose(2, 0, 1, 3)
+ dout.reshape(NH, B, T, HS)  # heads and tokens mixed in dout
- dqkv.transpose(2, 3, 0, 1, 4)
+ dqkv.transpose(2, 3, 1, 0, 4)  # heads and q, k, v mixed
- q, k, v = qkv.transpose
+ k, q, v = qkv.transpose  # q and k swapped forward
? test_variants_flash.py -k memory
- TILE = 128
+ TILE = 2**16  # one tile

== recompute
@ variants/recompute.py
? test_variants_recompute.py -k "bit or head or input_alone or (test_memory and not said)"
- return out, (x, p, B, NH)
+ return out, (out, p, B, NH)  # keeps its output
+ return out, (x.copy(), p, B, NH)  # keeps a copy
- out, _ = block_forward(x, p, B, NH)$        return out, (x, p, B, NH)
+ out, _ = block_forward(x, p, B, NH)$        return out, (x, p, B, NH, _)  # keeps all
- block_forward(*cache)
+ block_forward(0 * cache[0], *cache[1:])  # computes again from 0
- return block_backward(dout, block_cache, g)
+ return dout + block_backward(dout, block_cache, g)  # a residual too many
+ return block_backward(2 * dout, block_cache, g)  # twice the gradient
+ block_backward(dout, block_cache, g); return dout  # dx is dout
- "block_backward": backward}
+ "block_backward": block_backward}  # the given backward pass
- cache.clear()
+ pass  # the logits stay
- gpt2.head_backward(dloss, own, dwte)
+ gpt2.head_backward(1.0, own, dwte)  # dloss is lost
- for start in range(0, N, rows)]
+ for start in range(0, N - N % rows or N, rows)]  # the last, shorter piece
- slice(start, start + rows)
+ slice(start, start + max(1, rows - 1))  # the last row of a piece
+ slice(start, start + rows + 1)  # pieces overlap
- np.concatenate(losses).mean()
+ np.concatenate(losses).sum()  # a sum for the mean
+ np.mean([each.mean() for each in losses])  # a mean of the pieces' means
- wte.T), targets[piece])
+ wte.T), targets[: len(x[piece])])  # targets of the first piece
- gpt2.softmax_in_place(matmul(x[piece], wte.T), targets[piece])
+ gpt2.softmax_in_place(matmul(x, wte.T)[piece], targets[piece])  # the logits of all rows
- dwte[:] = 0
+ pass  # dwte begins as it was
+ dwte[:] = 1  # dwte begins at 1
- dx = np.empty_like(x)
+ dx = np.empty_like(x, np.float64)  # dx in float64
- head_forward(x[piece], wte, targets[piece])
+ head_forward(x[: len(x[piece])], wte, targets[piece])  # probabilities of the first piece
- targets[piece]] -= 1
+ targets[piece]] -= 0  # target not subtracted
+ targets[piece]] -= 2  # target subtracted twice
+ targets[: len(probs)]] -= 1  # the first piece's targets subtracted
- dlogits *= dloss / len(x)
+ dlogits *= dloss / len(probs)  # a mean over a piece
+ dlogits *= dloss  # no 1/N
+ dlogits *= 1 / len(x)  # not scaled by dloss
- range(0, len(wte), VOCABULARY_ROWS)
+ range(0, len(wte) - 1, VOCABULARY_ROWS)  # the last token of a vocabulary
- slice(start, start + VOCABULARY_ROWS)
+ slice(start, start + VOCABULARY_ROWS - 1)  # the last of some tokens
+ slice(start, start + VOCABULARY_ROWS + 1)  # some tokens twice
- dwte[some] += matmul
+ dwte[some] = matmul  # dwte of the last piece
+ dwte[some] -= matmul  # dwte with another sign
- .T, x[piece])
+ .T, x[: len(dlogits)])  # dwte with the first piece's x
- dx[piece] = matmul(dlogits, wte)
+ dx[piece] = 2 * matmul(dlogits, wte)  # twice dx
+ dx[: len(dlogits)] = matmul(dlogits, wte)  # dx of the first piece is overwritten
- del probs, dlogits
+ pass  # two pieces at a time

== other layers
@ variants/model.py
? test_variants_flash.py -k "flag or pytorchs"
- names = vars(gpt2) | layers
+ names = layers | vars(gpt2)  # the lesson's, all of them
- "block_forward block_backward
+ "block_backward  # the lesson's block forward
+ "block_forward  # the lesson's block backward
- gpt2_forward gpt2_backward
+ gpt2_backward  # the lesson's model forward
+ gpt2_forward  # the lesson's model backward
? test_variants_recompute.py -k "test_memory and not said"
- if name not in layers:
+ if True:  # a block that is given is replaced
? test_variants_lora.py -k a_run
- gpt2_backward generate"
+ gpt2_backward"  # the lesson's generate

== layers of long runs
@ tools/numpy_engine.py
? test_variants_flash.py -k flag
- if args.flash else {}
+ if False else {}  # no --flash
+ if True else {}  # --flash always
-   loss, cache = self.model.gpt2_forward
+   loss, cache = gpt2.gpt2_forward  # validation by the lesson's
? test_variants_recompute.py -k "bit or (test_memory and not said)"
- if args.recompute:
+ if False:  # no --recompute
- if args.head_rows:
+ if False:  # no --head-rows
- layers |= recompute.head_used_up()
+ pass  # the lesson's head, whose logits stay
- else float(loss))$            del cache
+ else float(loss))  # a validation has two batches' caches
- model = model_with(**layers)
+ model = model_with()  # --flash is lost with --recompute
@ tools/memory.py
? test_variants_recompute.py -k said
- block = 16 * C
+ block = 12 * C  # four arrays of a block forgotten
- else NH * keys)
+ else NH * T)  # all of (T, T)
- (L * C, block + working) if recompute
+ (L * block, block + working) if recompute  # recomputing saves nothing
- "moments": num_parameters * 2
+ "moments": num_parameters  # v forgotten
? test_variants_recompute.py -k "test_memory and not said"
- max(N * newest, logits) if gone
+ N * newest + logits if gone  # the logits stay
? test_variants_recompute.py -k said
@ variants/lora.py
- L * frozen * config.C
+ L * frozen  # the inputs of frozen layers counted

== lora
@ variants/lora.py
? test_variants_lora.py -k "gradient or begins or autograds"
- + scale * matmul(low, B.T)
+ + matmul(low, B.T)  # no scale forward
+ - scale * matmul(low, B.T)  # subtracted
- matmul(x, w.T) + b + scale
+ matmul(x, w.T) + scale  # no bias where there is an adapter
- low = matmul(x, A.T)
+ low = 2 * matmul(x, A.T)  # twice low
- dadded = scale * dout
+ dadded = dout  # no scale backward
- matmul(dadded.T, low, out=dB)
+ matmul(dout.T, low, out=dB)  # dB without scale
+ dB += dadded.T @ low  # dB added to what was there
+ dB[:] = 0  # no dB
- dlow = matmul(dadded, B)
+ dlow = matmul(dout, B)  # dlow without scale
- matmul(dlow.T, x, out=dA)
+ dA += dlow.T @ x  # dA added to what was there
+ matmul(low.T, x, out=dA)  # dA of low
+ dA[:] = 0  # no dA
- return matmul(dout, w) + matmul(dlow, A)
+ return matmul(dout, w)  # dx past the adapter
+ return matmul(dlow, A)  # dx through the adapter alone
+ return matmul(dout, w) + scale * matmul(dlow, A)  # scale twice in dx
- return matmul(x, w.T) + b, w
+ return matmul(x, w.T), w  # no bias where all is frozen
- w = cache$    return matmul(dout, w)
+ w = cache$    return 0.5 * matmul(dout, w)  # half of dx
- (dout * w, norm, rstd)
+ (dout, norm, rstd)  # no w in layernorm's dx
- len(x)), targets] -= 1
+ len(x)), targets] -= 0  # target not subtracted
- dlogits *= dloss / len(x)
+ dlogits *= 1 / len(x)  # not scaled by dloss
+ dlogits *= dloss  # no 1/N
- return matmul(dlogits, wte)
+ return 0.5 * matmul(dlogits, wte)  # half of the head's dx
- name.endswith(".A")
+ name.endswith(".B")  # A begins as 0, B random
+ name  # both are random
- view *= 0.02
+ view *= 0.2  # A ten times as large
- np.random.default_rng(seed)$    for
+ np.random.default_rng(0)$    for  # one seed for all
- zip(grads[f"{name}.A"], grads[f"{name}.B"]
+ zip(grads[f"{name}.B"], grads[f"{name}.A"]  # dA and dB swapped
- "beta1": 0.9,
+ "beta1": 0.8,  # beta1 of 0.8
- "beta2": 0.999
+ "beta2": 0.99  # beta2 of 0.99
? test_variants_lora.py -k merged
- w += scale * (B @ A)
+ w += B @ A  # merged without scale
+ w -= scale * (B @ A)  # merged with another sign
+ w[:] = scale * (B @ A)  # the weight is lost
+ pass  # nothing merged
- in adapted if isinstance
+ in adapted[:1] if isinstance  # the first block alone
- np.array([scale], np.float32)
+ np.array([1.0], np.float32)  # scale not saved
- (args.alpha or 16) / (args.rank or 8)
+ (args.alpha or 16)  # scale is alpha
? test_variants_lora.py -k do_not_fit
- if not np.array_equal(arrays["model"], sampled(model)):
+ if False:  # adapters of other weights
- np.append(theta, arrays["scale"])
+ theta  # a scale that is not finite
+ arrays["scale"]  # adapters that are not finite
- ("F32", shape) for
+ ("F32", found[name].shape) for  # shapes not compared
? test_variants_lora.py -k a_run
- if args.adapters:$        theta
+ if False:$        theta  # begins anew, in spite of --adapters
- MODEL.gpt2_backward(1.0, cache, grads)
+ pass  # no backward pass
- gpt2.adamw(theta, grad
+ gpt2.adamw(theta.copy(), grad  # adapters stay as they are
? test_variants_lora.py -k mistakes
- (args.init, args.adapters) if x]
+ (args.adapters,) if x]  # overwrites the weights
- tensor_file.check_writable(args.out, "--out")
+ pass  # learns after training that nothing can be written
- if not math.isfinite(loss + norm):
+ if False:  # a loss that is not finite goes on

== llama
@ variants/train_llama.py
? test_variants_llama.py -k "gradient_of_each or ten_steps"
- np.square(x).mean(-1, keepdims=True)
+ np.square(x).sum(-1, keepdims=True)  # a sum of squares
+ x.var(-1, keepdims=True)  # the variance
- .mean(-1, keepdims=True) + RMSNORM_EPS)
+ .mean(-1, keepdims=True)) + RMSNORM_EPS  # eps outside the root
- (dnorm - norm * along_norm) * rrms
+ dnorm * rrms  # rrms taken for a constant
+ (dnorm - norm * along_norm)  # no rrms in dx
+ (dnorm + norm * along_norm) * rrms  # sign of the second term
+ (dnorm - dnorm.mean(-1, keepdims=True) - norm * along_norm) * rrms  # layernorm's dx
- along_norm = (dnorm * norm).mean(
+ along_norm = (dnorm * norm).sum(  # no 1/C
- return norm * w, (norm, rrms, w)
+ return norm, (norm, rrms, w)  # no w forward
- normalize_backward(dout * w, norm, rrms)
+ normalize_backward(dout, norm, rrms)  # no w backward
- dw[:] = (dout * norm).sum(0)
+ dw[:] = dout.sum(0)  # dw of dout alone
+ dw += (dout * norm).sum(0)  # dw added to what was there
- np.add.at(dwte, tokens.reshape(-1), dout)
+ dwte[tokens.reshape(-1)] += dout  # a repeated token counts once
- return matmul(x, w.T), (x, w)
+ return matmul(x, w.T), (x + 1, w)  # another x in the cache
- matmul(dout.T, x, out=dw)
+ dw += dout.T @ x  # dw of a linear layer added
- return matmul(dout, w)
+ return 2 * matmul(dout, w)  # twice dx
- ROTARY_BASE ** (-np.arange
+ ROTARY_BASE ** (np.arange  # angles grow with the pair
- ** (-np.arange(0, HS, 2) / HS)
+ ** (-np.arange(HS // 2) / HS)  # half of the exponent
- np.arange(start, end)
+ np.arange(start + 1, end + 1) * 1.1  # another step
- turns[0], -turns[1] if back else turns[1]
+ turns[0], turns[1]  # turned on, not back
+ turns[0], turns[1] if back else -turns[1]  # the other way around
+ -turns[0] if back else turns[0], turns[1]  # the cosine changes its sign
- x[..., 0::2], x[..., 1::2]
+ *np.split(x, 2, -1),  # halves for neighbours
- [a * cos - b * sin
+ [a * cos + b * sin  # no turn
- , a * sin + b * cos], -1
+ , b * cos - a * sin], -1  # a mirror
- a * sin + b * cos], -1)
+ a * sin + b * cos], -2)  # a turned pair is not put back
- rotate(q, turns=turns), rotate(k, turns=turns)
+ rotate(q, turns=turns), k  # keys not turned
+ q, rotate(k, turns=turns)  # queries not turned
+ q, k  # no positions
- q, k = rotate(q, turns=turns), rotate(k, turns=turns)
+ q, k, v = (rotate(x, turns=turns) for x in (q, k, v))  # values turned
- k, v = k.repeat(group, 0), v.repeat(group, 0)
+ k, v = np.tile(k, (group, 1, 1, 1)), np.tile(v, (group, 1, 1, 1))  # heads in another order
- B, T, HS).sum(1)
+ B, T, HS).mean(1)  # a mean over copies
+ B, T, HS)[:, 0]  # the first copy alone
- d.reshape(-1, group, B, T, HS).sum(1)
+ d.reshape(group, -1, B, T, HS).sum(0)  # other copies' sum
- rotate_backward(dq, turns), rotate_backward(dk, turns)
+ dq, rotate_backward(dk, turns)  # dq not turned back
+ rotate_backward(dq, turns), dk  # dk not turned back
- return to_rows(dq), to_rows(dk), to_rows(dv)
+ return to_rows(dq), to_rows(dv), to_rows(dk)  # dk and dv swapped
- transpose(1, 2, 0, 3).reshape(B * T
+ transpose(1, 2, 3, 0).reshape(B * T  # heads and channels mixed
- x.reshape(B, len(x) // B, -1, HS)
+ x.reshape(len(x) // B, B, -1, HS).swapaxes(0, 1)  # sequences and tokens mixed
- 0.5 * (1 + np.tanh(0.5 * x))
+ 0.5 * (1 + np.tanh(x))  # another sigmoid
- gate * sigmoid(gate) * up
+ sigmoid(gate) * up  # no gate (GLU)
+ gate * sigmoid(up) * up  # the sigmoid of up
- s + gate * s * (1 - s)
+ s  # the sigmoid taken for a constant
+ s + gate * s * (1 + s)  # 1 + s
+ gate * s * (1 - s)  # the first term of the slope dropped
- return dout * up * slope, dout * gate * s
+ return dout * slope, dout * gate * s  # no up in dgate
+ return dout * up * slope, dout * s  # no gate in dup
+ return dout * gate * s, dout * up * slope  # dgate and dup swapped
? test_variants_llama.py -k "gradient_of_the_model or ten_steps"
- mid = x + attproj
+ mid = attproj  # first residual dropped
- rmsnorm_forward(mid, p["ln2w"])
+ rmsnorm_forward(x, p["ln2w"])  # second norm reads x
- return mid + fcproj, (att
+ return fcproj, (att  # second residual dropped
- dln2 += linear_backward(dgate
+ dln2 = linear_backward(dgate  # gradient of gate alone
- dln1 += linear_backward(dk,
+ dln1 = linear_backward(dk,  # gradient of v is lost
- dln1 += linear_backward(dq,
+ dln1 = linear_backward(dq,  # gradient of q alone
- dmid = dout + rmsnorm
+ dmid = rmsnorm  # second residual's gradient
- return dmid + rmsnorm
+ return rmsnorm  # first residual's gradient
- grads["wte"][:] = 0
+ pass  # dwte stays where the head is untied
- grads.get("headw", grads["wte"])
+ grads["wte"]  # no gradient of an untied head
- head = params.get("headw", params["wte"])
+ head = params["wte"]  # an untied head is not used
- reversed(range(len(block_caches)))
+ range(len(block_caches))  # blocks backward in order
- embedding_backward(dx, embedding_cache, grads["wte"])
+ pass  # no gradient of the embedding
@ variants/llama_files.py
- != SCALE]
+ == MATRIX]  # projections do not decay
+ ]  # norms decay
? test_variants_llama.py -k initial
- "attprojw": ("L C C", PROJECTION)
+ "attprojw": ("L C C", MATRIX)  # attprojw begins as large as others

== llama's ids
@ variants/train_llama.py
? test_variants_llama.py -k refused
- if not 0 <= ids.min()
+ if not -1 <= ids.min()  # -1 is taken for the last token
- ids.max() < config.V
+ ids.max() <= config.V  # a token too many
- np.stack((tokens, targets))
+ tokens  # targets not checked
+ targets  # tokens not checked
- tokens.shape[1] > config.maxT:
+ False:  # any length
+ tokens.shape[1] >= config.maxT:  # maxT tokens are refused
+ tokens.shape[0] > config.maxT:  # sequences counted, not tokens

== llama's kept keys
@ variants/train_llama.py
? test_variants_llama.py -k kept
- past[..., -turns.shape[1] :, :] = k, v
+ past[..., : turns.shape[1], :] = k, v  # always written at the beginning
+ past[..., -turns.shape[1] :, :] = v, k  # k and v swapped
- *past.repeat(group, 1)
+ *np.tile(past, (1, group, 1, 1, 1))  # heads in another order
@ variants/open_llama.py
- turns_of(start, end, config
+ turns_of(0, T, config  # positions begin anew
- past[l][..., :end, :])
+ past[0][..., :end, :])  # one past for all blocks
- reshape(B, T, -1)[:, -1]
+ reshape(B, T, -1)[:, 0]  # what follows the first token
- params.get("headw", params["wte"]).T)
+ params["wte"].T)  # an untied head is not sampled from
@ tools/sampling.py
- getattr(config, "NKV", config.NH)
+ config.NH  # as many kept heads as queries have

== llama's files
@ variants/llama_files.py
? test_variants_llama.py -k "llama2c or hugging"
- V > 0)
+ V < 0)  # an untied head by the wrong sign
- VERSION_0 = "wte ln1w qw
+ VERSION_0 = "ln1w wte qw  # version 0 in another order
- V if tied else -V
+ V  # version 0 is always tied
- np.concatenate([parts[name] for name in sizes])
+ np.concatenate([*parts.values()])  # version 0's order in memory
- BEGIN, FIRST_BYTE = 1, 3
+ BEGIN, FIRST_BYTE = 1, 4  # bytes begin a token later
- order[[BEGIN, end_of_text]] = end_of_text, BEGIN
+ pass  # end-of-text keeps its number
- [float(-i) for
+ [float(i) for  # scores grow
- (joint[i] >= 0, scores[joint[i]])
+ joint[i]  # the pair with the greatest id
- if text else "":
+ if False else text:  # no space before the text
- return [BEGIN, *found]
+ return found  # no token that begins a text
@ variants/convert_llama.py
- w.reshape(heads, HS // 2, 2, -1)
+ w.reshape(heads, 2, HS // 2, -1)  # written rows keep their order
- w.reshape(heads, 2, HS // 2, -1) if back
+ w.reshape(heads, HS // 2, 2, -1) if back  # read rows keep their order
- "qw": config.NH, "kw": config.NKV}
+ "qw": config.NH, "kw": config.NH}  # keys as if in NH heads
+ "qw": config.NH}  # keys keep their order
- mlp.gate_proj.weight", "upw": "model.layers.{}.mlp.up_proj
+ mlp.up_proj.weight", "upw": "model.layers.{}.mlp.gate_proj  # gate and up swapped
? test_variants_llama.py -k refused
- (RMSNORM_EPS, 1e-6)
+ (RMSNORM_EPS, RMSNORM_EPS)  # an eps that is left out
- if value != need:
+ if False:  # other Llamas are taken

== llama's run
@ variants/train_llama.py
? test_variants_llama.py -k "learns or conversions"
- math.ceil(8 * C / 3 / 32) * 32
+ 4 * C  # H of 4C
- tied=not args.untied
+ tied=True  # --untied is lost
- LLAMA = {"gpt2_forward": llama_forward, "gpt2
+ LLAMA = {"gpt2  # GPT-2's forward pass
@ variants/model.py
- names, name, f.__defaults__)
+ names, name)  # defaults are lost
- adamw_update evaluate main"
+ adamw_update main"  # validation by the lesson's model

== strings and their reverse
@ prepro_reverse.py
? test_prepro.py -k "strings or right_to"
- string.ascii_lowercase
+ string.ascii_uppercase  # capitals
- b"=", b"<|endoftext|>"]
+ b"<|endoftext|>", b"="]  # = and end-of-text swapped
- LEAST, MOST = 8, 16
+ LEAST, MOST = 7, 16  # seven letters, too
+ LEAST, MOST = 8, 15  # 15 at most
- SIZE = 2 * MOST + 2
+ SIZE = 2 * MOST + 3  # a token more
- rng.integers(LETTERS, size
+ rng.integers(LETTERS - 1, size  # the last letter is lacking
+ rng.integers(1, LETTERS, size  # the first letter is lacking
+ rng.integers(LETTERS + 1, size  # = among the letters
- LEAST, MOST + 1, (count
+ LEAST, MOST, (count  # none of 16 letters
+ LEAST + 1, MOST + 1, (count  # none of eight letters
- MOST + 1, (count, 1))
+ MOST + 1, (1, 1))  # one length for all
- - MOST) <= n, letters
+ - MOST) < n, letters  # a letter less
+ - MOST) <= n + 1, letters  # a letter more
+ - MOST + 1) <= n, letters  # a token too early
- <= n, letters, END)
+ <= n, letters, EQUALS)  # = around a document
- found[:, MOST] = EQUALS
+ pass  # no =
+ found[:, MOST] = END  # end-of-text for =
- = found[:, MOST - 1 :: -1]
+ = found[:, :MOST]  # not reversed
+ = np.roll(found[:, MOST - 1 :: -1], 1, 1)  # reversed, and turned by one
- rng.permutation(np.unique(found, axis=0))
+ np.unique(found, axis=0)  # in order: all that is held out begins alike
+ rng.permutation(found)  # a string twice
- logits.argmax(-1)
+ logits.argmin(-1)  # the least likely token
+ logits[:1].argmax(-1).repeat(len(logits))  # what the first string has next, for all
- pick = lambda logits: logits.argmax(-1)
+ pick = sampling.picker([np.random.default_rng(0)] * len(start))  # drawn, not the likeliest
- texts = sampling.generate(model.params, model.config, start
+ texts = lambda n: sampling.generate(model.params, model.config, held_out[:, :n]
- next(texts) for _ in range
+ next(texts(MOST + 1 + i)) for i in range  # what is right is given, not what was said
- np.cumsum(rest == END, 1) > 1
+ np.cumsum(rest == END, 1) > 0  # end-of-text need not come
+ np.cumsum(rest == END, 1) > 99  # what follows end-of-text has to be right, too
- (ended | (said == rest))
+ (ended & (said == rest))  # what is before end-of-text does not count
+ (ended | (said != rest))  # what is wrong counts
- (said == rest)).all(1)
+ (said == rest)).any(1)  # one right token is enough
+ (said == rest)).all(0)  # places are counted, not strings
- all(1).sum())
+ all(1).mean())  # a mean for a count
? test_prepro.py -k check_prints
- val = f"{prefix}_val.bin"
+ val = f"{prefix}_train.bin"  # strings of the training are asked
- != EQUALS).any()
+ != EQUALS).all()  # one = in its place is enough
- or len(tokens) % SIZE or
+ or  # a piece of a document is left over
- .reshape(count, SIZE)
+ .reshape(SIZE, count).T  # documents mixed
- {right / count:.1%}
+ {right / SIZE:.1%}  # a part of another count
- of {count:,} strings
+ of {len(tokens):,} strings  # tokens counted, not strings
? test_prepro.py -k model_is
- TRAIN, VAL = 200_000, 1000
+ TRAIN, VAL = 200_000, 100  # fewer are held out
- if model.config.maxT < SIZE:
+ if False:  # a model of shorter sequences is asked
+ if model.config.maxT <= SIZE:  # a model of just a document is refused
- np.random.default_rng(0))
+ np.random.default_rng())  # others are held out each time
- [found[VAL:].reshape(-1)]
+ [found.reshape(-1)]  # strings held out are trained on
+ [found[VAL:].T.reshape(-1)]  # documents to be trained on mixed
- [found[:VAL].reshape(-1)]
+ [found[-VAL:].reshape(-1)]  # the last strings of the training are held out
+ [found[:VAL].T.reshape(-1)]  # documents held out mixed
- VOCABULARY, END, splits)
+ VOCABULARY, EQUALS, splits)  # = is end-of-text
- 64 --seq-len 34
+ 64 --seq-len 33  # sequences that are no documents
"""
