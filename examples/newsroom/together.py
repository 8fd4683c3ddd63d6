"""Which people are named in the same papers: python3 together.py found.graphml"""

import sys
from collections import Counter
from itertools import combinations

import networkx

graph = networkx.read_graphml(sys.argv[1])
pairs = Counter()
for paper, facts in graph.nodes(data=True):
    if facts["kind"] == "document":
        named = [graph.nodes[name] for name in graph.successors(paper)]
        people = sorted({one["label"] for one in named if one["type"] == "person"})
        pairs.update(combinations(people, 2))
for (one, other), papers in pairs.most_common(5):
    print(papers, f"{one} + {other}", sep="\t")
