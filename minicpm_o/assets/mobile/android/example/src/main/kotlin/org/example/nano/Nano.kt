// nano on a phone: a picture goes in, a sentence comes out. Letters: Q tokens of a picture, D width, V vocabulary,
// C tokens that the cache has room for.
package org.example.nano

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import android.graphics.Bitmap
import org.json.JSONArray
import org.json.JSONObject
import java.io.ByteArrayOutputStream
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer
import java.nio.IntBuffer
import java.nio.LongBuffer

/** The model in `folder`, OUT/model of the export. Not for several threads at once. */
class Nano(folder: File) : AutoCloseable {
    private val environment = OrtEnvironment.getEnvironment()
    private val vision = environment.createSession(File(folder, "vision.ort").path)
    private val language = environment.createSession(File(folder, "language.ort").path)
    private val tables = JSONObject(File(folder, "config.json").readText())
    private val shape = tables.getJSONObject("config").getJSONObject("language")
    private val words = readTokens(File(folder, "tokens.bin"))
    private val ends = ids(tables.getJSONArray("eos")).toSet()
    private val banned = ids(tables.getJSONArray("banned")).toSet()

    /** One sentence about a picture; `wrote` hears each piece of it as it comes, which may end inside a letter. */
    fun describe(picture: Bitmap, wrote: (ByteArray) -> Unit = {}): String =
        tensor(pixels(picture), 1, 3, side.toLong(), side.toLong()).use { pixels ->
            vision.run(mapOf("pixels" to pixels), setOf("tokens")).use { seen ->
                answer("describe", seen.get("tokens").get() as OnnxTensor, wrote)
            }
        }

    /** The answer to the plain question that the export laid out. */
    fun answerPlainly(wrote: (ByteArray) -> Unit = {}): String {
        val width = shape.getLong("width")
        return tensor(zeros(width), 1, 1, width).use { nothing -> answer("plain", nothing, wrote) }
    }

    /** The likeliest token, one after the other. media (1, Q, D) stands where the prompt has placeholders. */
    private fun answer(ready: String, media: OnnxTensor, wrote: (ByteArray) -> Unit): String {
        val prompt = ids(tables.getJSONObject("ready").getJSONObject(ready).getJSONArray("ids"))
        val mostTokens = tables.getJSONObject("answer").getInt("max_tokens")
        val room = minOf(shape.getInt("context_tokens"), prompt.size + mostTokens)
        val text = ByteArrayOutputStream()
        val logits = zeros(shape.getLong("vocab_size"))
        val outputs = newCache(room) + ("logits" to tensor(logits, 1, shape.getLong("vocab_size")))
        try {
            var read = prompt
            var total = prompt.size
            while (true) {
                step(read, media, total, outputs)
                val next = likeliest(logits)
                if (next in ends) break
                wrote(words[next.toInt()])
                text.write(words[next.toInt()])
                if (total - prompt.size + 1 == mostTokens || total == room) break
                read = longArrayOf(next)
                total += 1
            }
        } finally {
            outputs.values.forEach { it.close() }
        }
        return text.toString("UTF-8")
    }

    /** Read tokens; the logits of the last one and the cache are written where they lie. */
    private fun step(ids: LongArray, media: OnnxTensor, total: Int, outputs: Map<String, OnnxTensor>) {
        val read = OnnxTensor.createTensor(environment, LongBuffer.wrap(ids), longArrayOf(1, ids.size.toLong()))
        val lengths = OnnxTensor.createTensor(environment, IntBuffer.wrap(intArrayOf(total)), longArrayOf(1))
        val past = outputs.filterKeys { it != "logits" }.mapKeys { it.key.replace("present.", "past_key_values.") }
        read.use { lengths.use {
            language.run(past + mapOf("ids" to read, "media" to media, "total_tokens" to lengths), outputs).close()
        } }
    }

    /** Keys and values of every layer, (1, heads, C, head width) of zeros each, by the names of the outputs. */
    private fun newCache(room: Int): Map<String, OnnxTensor> {
        val heads = shape.getLong("kv_heads")
        val width = shape.getLong("head_width")
        return (0 until shape.getInt("layers")).flatMap { layer -> listOf("key", "value").map { kind ->
            "present.$layer.$kind" to tensor(zeros(heads * room * width), 1, heads, room.toLong(), width)
        } }.toMap()
    }

    private fun likeliest(logits: FloatBuffer): Long {
        var best = -1
        for (id in 0 until logits.capacity()) {
            if ((best < 0 || logits.get(id) > logits.get(best)) && id.toLong() !in banned) best = id
        }
        return best.toLong()
    }

    private val side get() = tables.getJSONObject("config").getJSONObject("vision").getInt("image_px")

    /** (3, side, side), each colour around zero. */
    private fun pixels(picture: Bitmap): FloatBuffer {
        val small = Bitmap.createScaledBitmap(picture, side, side, true)
        val colours = IntArray(side * side)
        small.getPixels(colours, 0, side, 0, 0, side, side)
        val mean = tables.getJSONObject("image").getDouble("mean").toFloat()
        val std = tables.getJSONObject("image").getDouble("std").toFloat()
        val numbers = zeros(3L * side * side)
        for (shift in intArrayOf(16, 8, 0)) {
            for (colour in colours) numbers.put(((colour shr shift and 0xFF) / 255f - mean) / std)
        }
        numbers.rewind()
        return numbers
    }

    private fun tensor(numbers: FloatBuffer, vararg shape: Long) =
        OnnxTensor.createTensor(environment, numbers, shape)

    /** Memory that the runtime reads and writes without a copy. */
    private fun zeros(count: Long): FloatBuffer =
        ByteBuffer.allocateDirect(4 * count.toInt()).order(ByteOrder.nativeOrder()).asFloatBuffer()

    private fun ids(numbers: JSONArray) = LongArray(numbers.length()) { numbers.getLong(it) }

    private fun readTokens(file: File): List<ByteArray> {
        val bytes = ByteBuffer.wrap(file.readBytes()).order(ByteOrder.LITTLE_ENDIAN)
        return buildList {
            while (bytes.hasRemaining()) add(ByteArray(bytes.short.toInt() and 0xFFFF).also { bytes.get(it) })
        }
    }

    override fun close() {
        vision.close()
        language.close()
    }
}
