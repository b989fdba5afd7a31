import torch
from torch import nn
from torchvision.ops import batched_nms, sigmoid_focal_loss

class OwnDetector(nn.Module):
    def __init__(self, classes):
        super().__init__()
        convs = [(3, 32), (32, 64), (64, 64)]
        self.body = nn.Sequential(*(m for i, o in convs for m in (nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o), nn.ReLU())))
        self.scores, self.sides = nn.Conv2d(64, len(classes), 3, 1, 1), nn.Conv2d(64, 4, 3, 1, 1)

    def forward(self, images, targets=None):
        maps = self.body(torch.stack(images))
        logits, sides = (x.flatten(2).transpose(1, 2) for x in (self.scores(maps) - 3, 8 * self.sides(maps).exp()))
        y, x = torch.meshgrid(*(8.0 * torch.arange(n, device=maps.device) + 4 for n in maps.shape[2:]), indexing="ij")
        at = torch.stack([x, y], -1).view(-1, 2)
        boxes, (best, labels) = torch.cat([at - sides[..., :2], at + sides[..., 2:]], -1), logits.sigmoid().max(-1)
        if targets is None:
            kept = [batched_nms(b, s, k, 0.5) for b, s, k in zip(boxes, best, labels)]
            return [{"boxes": b[i], "scores": s[i], "labels": k[i]} for b, s, k, i in zip(boxes, best, labels, kept)]
        wanted, goal = torch.zeros_like(logits), torch.zeros_like(boxes)
        for i, (box, label) in [(i, pair) for i, t in enumerate(targets) for pair in zip(t["boxes"], t["labels"])]:
            near = ((at - (box[:2] + box[2:]) / 2).abs() < 6).all(-1)
            wanted[i, near, label], goal[i, near] = 1, box
        count = wanted.sum().clamp(min=1)
        lost = (boxes - goal)[wanted.amax(-1) > 0].abs().sum() / (8 * count)
        return {"scores": sigmoid_focal_loss(logits, wanted, reduction="sum") / count, "sides": lost}
