"""`gentool mesh`: clouds of points to closed meshes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gentool.cli.options import MAX_SEED, FirstCount, optional, out_option
from gentool.cli.output import Json, Quiet, emit, note

app = typer.Typer(add_completion=False)


@app.command()
def mesh(
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help="A samples file of clouds (.h5 .npz .ply), or a data set.")
    ],
    out: Annotated[
        Path | None,
        out_option("A folder, a .ply or .obj for one mesh, or a .png.  [default: INPUT-meshes]"),
    ] = None,
    mesher: Annotated[
        str | None,
        optional(
            metavar="RUN",
            help="A run of the family sap that says which way points face.  [default: estimated]",
        ),
    ] = None,
    resolution: Annotated[
        int | None,
        optional(
            metavar="R",
            help="Nodes of the grid along each side.  [default: the mesher's, or as the points allow]",
        ),
    ] = None,
    sigma: Annotated[
        float, typer.Option(metavar="S", help="Smoothing; 1 is a Gaussian of 0.32 cells.")
    ] = 2.0,
    steps: Annotated[
        int, typer.Option(min=0, metavar="K", help="Steps that move points and normals towards the cloud.")
    ] = 0,
    format: Annotated[str, typer.Option(metavar="NAME", help="Of the folder's files: ply or obj.")] = "ply",
    count: FirstCount = None,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, metavar="S", help="Fixes what --steps draws.")
    ] = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn clouds of points into closed meshes, in the clouds' own units.

    Points and normals are smeared over a grid, Poisson's equation says what is inside, and its border is the mesh
    (Shape As Points). A folder holds a file for each cloud and a picture of all. Needs the extra gentool[mesh].
    """
    from gentool.cli.progress import progress
    from gentool.points.meshing import MeshOptions
    from gentool.tasks.mesh import mesh_file

    with progress("meshing", "shape", quiet) as report:
        done = mesh_file(
            source,
            out=out,
            mesher=mesher,
            options=MeshOptions(resolution, sigma, steps, seed),
            suffix=f".{format.lower()}",
            count=count,
            report=report,
            say=lambda line: note(line, quiet),
        )
    note(f"{done.count} meshes, {done.faces} triangles, {done.seconds:.1f} s; picture: {done.picture}", quiet)
    emit(done.document(), str(done.path), json)
