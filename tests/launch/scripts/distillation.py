"""A teacher that is trained first, and then a student of the same class that learns from it."""

import torch
import torch.nn.functional as F
from result import show
from torch import nn


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, width), nn.Linear(width, 3)

    def forward(self, x):
        return self.fc2(F.relu(self.fc1(x)))


torch.manual_seed(3)
x = torch.randn(32, 8)
y = torch.randint(3, (32,))
teacher = Net(32)
optimizer = torch.optim.SGD(teacher.parameters(), lr=0.1)
for step in range(8):
    optimizer.zero_grad()
    loss = F.cross_entropy(teacher(x), y)
    loss.backward()
    optimizer.step()
    print("teacher", step, loss.item())

student = Net(8)
optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
for step in range(12):
    with torch.no_grad():
        soft = F.softmax(teacher(x) / 2, dim=1)
    optimizer.zero_grad()
    loss = F.kl_div(F.log_softmax(student(x) / 2, dim=1), soft, reduction="batchmean")
    loss.backward()
    optimizer.step()
    print("student", step, loss.item())
show(teacher, student)
