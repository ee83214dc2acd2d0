"""A FusedGraph as GraphML, for any graph tool."""

from collections.abc import Sequence
from io import BytesIO

import networkx as nx

from thinwire.shared.formats.graph import Assertion, FusedGraph, Relation


def graphml(graph: FusedGraph, concept_names: Sequence[str]) -> bytes:
    """Nodes p0.., context, c0.. with kind, label and place; edges with their kind. Features stay out.

    concept_names: of the graph's bundle, by concept index.
    """
    out = nx.MultiDiGraph(
        study=graph.study.hex(),
        bundle=graph.bundle.hex(),
        text_source=str(graph.text_source),
        modality=graph.modality,
        view_position=graph.view_position,
        native_height=graph.grid.native_height,
        native_width=graph.grid.native_width,
    )
    out.add_node("context", kind="context", label="whole image")
    for n, (cell, score) in enumerate(zip(graph.patches.cell.tolist(), graph.patches.score.tolist(), strict=True)):
        x, y, width, height = graph.grid.native_box(cell)
        place = {"x": x, "y": y, "width": width, "height": height}
        out.add_node(f"p{n}", kind="patch", label=f"patch {cell}", cell=cell, score=round(score, 6), **place)
        out.add_edge("context", f"p{n}", kind="overviews")
    for n, (concept, assertion) in enumerate(
        zip(graph.concepts.concept.tolist(), graph.concepts.assertion.tolist(), strict=True)
    ):
        assertion_name = Assertion(assertion).name.lower()
        out.add_node(f"c{n}", kind="concept", label=concept_names[concept], assertion=assertion_name)
    for a, b in graph.patch_edges().T.tolist():
        out.add_edge(f"p{a}", f"p{b}", kind="beside")
    for a, b, relation in graph.concepts.relations.tolist():
        out.add_edge(f"c{a}", f"c{b}", kind=Relation(relation).name.lower())
    if graph.fusion is not None:
        out.add_edge(f"p{graph.fusion[0]}", f"c{graph.fusion[1]}", kind="fused")
    file = BytesIO()
    nx.write_graphml(out, file)
    return file.getvalue()
