// swift-tools-version: 5.9
import PackageDescription

let package = Package(
    name: "Nano",
    platforms: [.iOS(.v15), .macOS(.v12)],
    products: [.library(name: "Nano", targets: ["Nano"])],
    dependencies: [
        .package(url: "https://github.com/microsoft/onnxruntime-swift-package-manager", exact: "1.24.2"),
    ],
    targets: [
        .target(name: "Nano", dependencies: [
            .product(name: "onnxruntime", package: "onnxruntime-swift-package-manager"),
        ]),
        .executableTarget(name: "describe", dependencies: ["Nano"]),
    ]
)
