"""Design matrices: the kinds of X of a regression, known by their products with X and X'."""

from jaxdescent.designs.categorical import Categorical as Categorical
from jaxdescent.designs.center import Center as Center
from jaxdescent.designs.center import sample_index as sample_index
from jaxdescent.designs.center import shares as shares
from jaxdescent.designs.concatenated import Concatenated as Concatenated
from jaxdescent.designs.conversion import as_design as as_design
from jaxdescent.designs.conversion import is_converted_once as is_converted_once
from jaxdescent.designs.dense import Dense as Dense
from jaxdescent.designs.hashed import Hashed as Hashed
from jaxdescent.designs.matrix_free import MatrixFree as MatrixFree
from jaxdescent.designs.protocol import Design as Design
from jaxdescent.designs.sparse import Sparse as Sparse
from jaxdescent.designs.standardised import Standardised as Standardised
from jaxdescent.designs.streamed import Streamed as Streamed
