import { useDesk } from "./context";
import { Gain, Money } from "./Figure";
import { ListingFoot } from "./ListingFoot";
import { Moment } from "./Moment";

export function ClosedPositions() {
  const { closed } = useDesk();
  const { items } = closed.state.value;
  return (
    <>
      {items.length > 0 && (
        <div class="scroller">
          <table class="grid" data-testid="closed-table">
            <thead>
              <tr>
                <th scope="col">Position</th>
                <th scope="col" class="number">
                  Realised
                </th>
                <th scope="col" class="number">
                  Fees
                </th>
                <th scope="col" class="number">
                  Opened
                </th>
                <th scope="col" class="number">
                  Closed
                </th>
              </tr>
            </thead>
            <tbody>
              {items.map((position) => (
                <tr key={position.position_id} data-testid="closed-row" data-symbol={position.symbol}>
                  <td>
                    <span class="symbol">{position.symbol}</span>
                    {position.strategy !== null && <span class="tag">{position.strategy}</span>}
                  </td>
                  <td class="number">
                    <Gain value={position.realized_pnl} /> <span class="quiet">{position.settle_asset}</span>
                  </td>
                  <td class="number">
                    <Money value={position.fees} />
                  </td>
                  <td class="number">
                    <Moment at={position.opened_at} />
                  </td>
                  <td class="number">
                    <Moment at={position.closed_at} />
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      <ListingFoot listing={closed} empty="Nothing has been closed yet." />
    </>
  );
}
