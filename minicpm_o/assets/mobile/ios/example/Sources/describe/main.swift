import CoreGraphics
import Foundation
import ImageIO
import Nano

// swift run describe MODEL PHOTO
let words = CommandLine.arguments
guard words.count == 3,
      let source = CGImageSourceCreateWithURL(URL(fileURLWithPath: words[2]) as CFURL, nil),
      let picture = CGImageSourceCreateImageAtIndex(source, 0, nil)
else {
    print("give the folder `model` and a picture: swift run describe ../model photo.jpg")
    exit(2)
}
print(try Nano(folder: URL(fileURLWithPath: words[1])).describe(picture))
