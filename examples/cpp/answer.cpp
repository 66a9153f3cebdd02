// Answer raw pixels with a file that `regraft export` wrote, through ONNX Runtime's C++ API.
//
//   answer MODEL.onnx PIXELS
//
// PIXELS holds S x S RGB pixels of 8 bits, row by row, S being the side that the model takes: what
// `regraft.load("model.onnx").pixels("a.jpg").tofile("a.rgb")` writes.

#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

int main(int count, char** arguments) try {
    if (count != 3) {
        std::fprintf(stderr, "type: answer MODEL.onnx PIXELS\n");
        return 2;
    }
    const std::string name = arguments[1];
    const std::basic_string<ORTCHAR_T> model(name.begin(), name.end());
    Ort::Env environment(ORT_LOGGING_LEVEL_ERROR, "answer");
    Ort::Session session(environment, model.c_str(), Ort::SessionOptions{});

    // The input is [N, S, S, 3]; N is free.
    Ort::TypeInfo input = session.GetInputTypeInfo(0);
    std::vector<std::int64_t> shape = input.GetTensorTypeAndShapeInfo().GetShape();
    shape[0] = 1;
    const std::size_t wanted = static_cast<std::size_t>(shape[1] * shape[2] * shape[3]);

    std::ifstream file(arguments[2], std::ios::binary);
    std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    if (bytes.size() != wanted) {
        std::fprintf(stderr, "%s holds %zu bytes; this model takes %zu: %lld x %lld RGB pixels\n", arguments[2],
                     bytes.size(), wanted, static_cast<long long>(shape[1]), static_cast<long long>(shape[2]));
        return 1;
    }

    Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    Ort::Value pixels = Ort::Value::CreateTensor<std::uint8_t>(
        memory, reinterpret_cast<std::uint8_t*>(bytes.data()), bytes.size(), shape.data(), shape.size());
    const std::array<const char*, 1> inputs{"pixels"}, outputs{"probabilities"};
    std::vector<Ort::Value> answers =
        session.Run(Ort::RunOptions{nullptr}, inputs.data(), &pixels, 1, outputs.data(), 1);

    // The classes, in the order of the probabilities, as a JSON list.
    Ort::AllocatorWithDefaultOptions allocator;
    Ort::AllocatedStringPtr labels =
        session.GetModelMetadata().LookupCustomMetadataMapAllocated("labels", allocator);
    std::printf("%s\n", labels ? labels.get() : "[]");
    const float* probabilities = answers[0].GetTensorData<float>();
    const std::size_t classes = answers[0].GetTensorTypeAndShapeInfo().GetElementCount();
    for (std::size_t k = 0; k < classes; ++k) std::printf("%.6f\n", probabilities[k]);
    return 0;
} catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
}
