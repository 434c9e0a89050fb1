"""An actor and a critic, both an `nn.Sequential`, with an optimizer each."""

import torch
from result import show
from torch import nn
from torch.distributions import Categorical


class Agent:
    def __init__(self):
        self.actor = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
        self.critic = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=3e-3)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=1e-2)

    def act(self, state):
        with torch.no_grad():
            return Categorical(logits=self.actor(state)).sample()

    def update(self, states, actions, returns):
        values = self.critic(states).squeeze(-1)
        critic_loss = (returns - values).pow(2).mean()
        self.critic_optimizer.zero_grad()
        critic_loss.backward()
        self.critic_optimizer.step()
        policy = Categorical(logits=self.actor(states))
        actor_loss = -(policy.log_prob(actions) * (returns - values.detach())).mean()
        self.actor_optimizer.zero_grad()
        (actor_loss - 0.01 * policy.entropy().mean()).backward()
        self.actor_optimizer.step()
        return actor_loss.item(), critic_loss.item()


torch.manual_seed(543)
agent = Agent()
for episode in range(12):
    states, actions, rewards = [], [], []
    state = torch.randn(4)
    for _ in range(10):
        action = agent.act(state)
        states.append(state)
        actions.append(action)
        rewards.append(float((state[0] > 0) == (action == 1)))
        state = torch.randn(4)
    returns = torch.tensor(rewards).flip(0).cumsum(0).flip(0)
    losses = agent.update(torch.stack(states), torch.stack(actions), returns)
    print(f"Episode {episode}\tReward: {sum(rewards)}\tLosses: {losses}")
show(agent.actor, agent.critic)
