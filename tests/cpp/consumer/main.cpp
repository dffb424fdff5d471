// A program without Python: loads a scripted converted model and runs it, then trains one step through
// torchqat::fake_quantize.
//   consumer MODEL.pt INPUT.pt EXPECTED.pt      (tensors saved by torch.jit as modules with one attribute "value")
#include <torch/script.h>
#include <torch/torch.h>
#include <torchqat/torchqat.h>

#include <iostream>

namespace {

at::Tensor read_tensor(const std::string& path) { return torch::jit::load(path).attr("value").toTensor(); }

// One SGD step on a weight that is fake-quantised to int8 per output channel: the loss must fall.
bool train_one_step() {
  torch::manual_seed(0);
  const auto input = torch::randn({64, 16});
  const auto target = torch::randn({64, 4});
  auto weight = torch::randn({4, 16}).mul_(0.3).requires_grad_();
  const auto loss_now = [&] {
    const auto [scale, zero_point] = torchqat::choose_qparams(weight.detach(), {1, -1}, -127, 127, /*symmetric=*/true);
    const auto quantised = torchqat::fake_quantize(weight, scale, zero_point, {1, -1}, -127, 127);
    return torch::mse_loss(torch::linear(input, quantised), target);
  };
  const auto before = loss_now();
  before.backward();
  if (!weight.grad().defined() || weight.grad().abs().sum().item<float>() == 0) return false;
  {
    torch::NoGradGuard guard;
    weight.sub_(weight.grad(), 0.1);
  }
  const auto after = loss_now();
  std::cout << "loss " << before.item<float>() << " -> " << after.item<float>() << "\n";
  return after.item<float>() < before.item<float>();
}

}  // namespace

int main(int argc, char** argv) {
  if (!train_one_step()) {
    std::cerr << "the training step did not lower the loss\n";
    return 1;
  }
  if (argc == 4) {
    auto model = torch::jit::load(argv[1]);
    torch::NoGradGuard guard;
    const auto output = model.forward({read_tensor(argv[2])}).toTensor();
    if (!torch::equal(output, read_tensor(argv[3]))) {
      std::cerr << "the model's output differs from the one Python computed\n";
      return 1;
    }
    std::cout << "model: " << output.numel() << " outputs, all equal\n";
  }
  return 0;
}
