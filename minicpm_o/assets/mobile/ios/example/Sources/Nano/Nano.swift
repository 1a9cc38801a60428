// nano on a phone: a picture goes in, a sentence comes out. Letters: Q tokens of a picture, D width, V vocabulary,
// C tokens that the cache has room for.
import CoreGraphics
import Foundation
import OnnxRuntimeBindings

/// Numbers and prompts that the export wrote down: config.json.
struct Tables: Decodable {
    struct Config: Decodable { let language: Language, vision: Vision }
    struct Language: Decodable {
        let layers, kv_heads, head_width, width, vocab_size, context_tokens: Int
    }
    struct Vision: Decodable { let image_px: Int }
    struct Answer: Decodable { let max_tokens: Int }
    struct Image: Decodable { let mean, std: Float }
    struct Prompt: Decodable { let ids: [Int64] }

    let config: Config
    let answer: Answer
    let image: Image
    let ready: [String: Prompt]
    let eos, banned: Set<Int>
}

public enum NanoError: Error {
    case noContext, damagedTokens, noOutput, noPrompt(String)
}

/// The model in `folder`, OUT/model of the export. Not for several threads at once.
public final class Nano {
    private let environment: ORTEnv
    private let vision, language: ORTSession
    private let tables: Tables
    private let words: [Data]

    public init(folder: URL) throws {
        environment = try ORTEnv(loggingLevel: .warning)
        vision = try ORTSession(env: environment, modelPath: folder.appendingPathComponent("vision.ort").path,
                                sessionOptions: nil)
        language = try ORTSession(env: environment, modelPath: folder.appendingPathComponent("language.ort").path,
                                  sessionOptions: nil)
        tables = try JSONDecoder().decode(
            Tables.self, from: Data(contentsOf: folder.appendingPathComponent("config.json")))
        words = try readTokens(Data(contentsOf: folder.appendingPathComponent("tokens.bin")))
    }

    /// One sentence about a picture; `wrote` hears each piece of it as it comes, which may end inside a letter.
    public func describe(_ picture: CGImage, wrote: (Data) -> Void = { _ in }) throws -> String {
        let side = tables.config.vision.image_px
        let pixels = try floats(numbers(of: picture, side: side), [1, 3, side, side])
        let seen = try vision.run(withInputs: ["pixels": pixels], outputNames: ["tokens"], runOptions: nil)
        guard let media = seen["tokens"] else { throw NanoError.noOutput }
        return try answer("describe", media, wrote)
    }

    /// The answer to the plain question that the export laid out.
    public func answerPlainly(wrote: (Data) -> Void = { _ in }) throws -> String {
        let width = tables.config.language.width
        return try answer("plain", floats(zeros(width), [1, 1, width]), wrote)
    }

    /// The likeliest token, one after the other. media (1, Q, D) stands where the prompt has placeholders.
    private func answer(_ ready: String, _ media: ORTValue, _ wrote: (Data) -> Void) throws -> String {
        guard let prompt = tables.ready[ready]?.ids else { throw NanoError.noPrompt(ready) }
        let shape = tables.config.language, mostTokens = tables.answer.max_tokens
        let room = min(shape.context_tokens, prompt.count + mostTokens)
        let logits = zeros(shape.vocab_size)
        var outputs = try newCache(room)
        outputs["logits"] = try floats(logits, [1, shape.vocab_size])
        var text = Data(), read = prompt, total = prompt.count
        while true {
            try step(read, media, total, outputs)
            let next = likeliest(logits)
            if tables.eos.contains(next) { break }
            wrote(words[next])
            text.append(words[next])
            if total - prompt.count + 1 == mostTokens || total == room { break }
            read = [Int64(next)]
            total += 1
        }
        return String(decoding: text, as: UTF8.self)
    }

    /// Read tokens; the logits of the last one and the cache are written where they lie.
    private func step(_ ids: [Int64], _ media: ORTValue, _ total: Int, _ outputs: [String: ORTValue]) throws {
        var inputs = ["media": media]
        inputs["ids"] = try ORTValue(tensorData: bytes(of: ids), elementType: .int64,
                                     shape: [1, NSNumber(value: ids.count)])
        inputs["total_tokens"] = try ORTValue(tensorData: bytes(of: [Int32(total)]), elementType: .int32, shape: [1])
        for (name, value) in outputs where name != "logits" {
            inputs[name.replacingOccurrences(of: "present.", with: "past_key_values.")] = value
        }
        try language.run(withInputs: inputs, outputs: outputs, runOptions: nil)
    }

    /// Keys and values of every layer, (1, heads, C, head width) of zeros each, by the names of the outputs.
    private func newCache(_ room: Int) throws -> [String: ORTValue] {
        let shape = tables.config.language
        var cache: [String: ORTValue] = [:]
        for layer in 0..<shape.layers {
            for kind in ["key", "value"] {
                cache["present.\(layer).\(kind)"] = try floats(zeros(shape.kv_heads * room * shape.head_width),
                                                               [1, shape.kv_heads, room, shape.head_width])
            }
        }
        return cache
    }

    private func likeliest(_ logits: NSMutableData) -> Int {
        let numbers = UnsafeRawBufferPointer(start: logits.bytes, count: logits.length).bindMemory(to: Float.self)
        var best = -1
        for id in numbers.indices where (best < 0 || numbers[id] > numbers[best]) && !tables.banned.contains(id) {
            best = id
        }
        return best
    }

    /// (3, side, side), each colour around zero.
    private func numbers(of picture: CGImage, side: Int) throws -> NSMutableData {
        var colours = [UInt8](repeating: 255, count: side * side * 4)
        let isDrawn = colours.withUnsafeMutableBytes { memory -> Bool in
            guard let context = CGContext(data: memory.baseAddress, width: side, height: side, bitsPerComponent: 8,
                                          bytesPerRow: side * 4, space: CGColorSpaceCreateDeviceRGB(),
                                          bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)
            else { return false }
            context.interpolationQuality = .high
            context.draw(picture, in: CGRect(x: 0, y: 0, width: side, height: side))
            return true
        }
        guard isDrawn else { throw NanoError.noContext }
        var found: [Float] = []
        for colour in 0..<3 {
            for place in 0..<(side * side) {
                found.append((Float(colours[4 * place + colour]) / 255 - tables.image.mean) / tables.image.std)
            }
        }
        return bytes(of: found)
    }
}

/// A tensor over memory that the runtime reads and writes without a copy.
private func floats(_ numbers: NSMutableData, _ shape: [Int]) throws -> ORTValue {
    try ORTValue(tensorData: numbers, elementType: .float, shape: shape.map { NSNumber(value: $0) })
}

private func zeros(_ count: Int) -> NSMutableData {
    NSMutableData(bytes: [Float](repeating: 0, count: count), length: 4 * count)
}

private func bytes<Number>(of numbers: [Number]) -> NSMutableData {
    NSMutableData(bytes: numbers, length: MemoryLayout<Number>.stride * numbers.count)
}

/// The bytes of every token: its length in two bytes, the low one first, and they themselves.
private func readTokens(_ data: Data) throws -> [Data] {
    var tokens: [Data] = [], place = data.startIndex
    while place + 2 <= data.endIndex {
        let end = place + 2 + Int(data[place]) + Int(data[place + 1]) << 8
        guard end <= data.endIndex else { throw NanoError.damagedTokens }
        tokens.append(data.subdata(in: place + 2..<end))
        place = end
    }
    return tokens
}
